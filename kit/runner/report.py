def render(executed, record, result):
    return "x"
