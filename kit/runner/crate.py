def write_crate(folder, record, result):
    pass
