"""What is left is the least of the machine's and of every control group's around the process."""

import psutil
import pytest
import torch

from kit.runner.memory import container_bytes
from kit.training.free_memory import free_bytes


def group(folder, *, limit, used, cached, old=False):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'total_' if old else ''}inactive_file {cached}\n")


def test_the_cpus_memory_is_what_the_system_says_or_less():
    left = free_bytes(torch.device("cpu"))
    assert 0 < left <= psutil.virtual_memory().available * 1.1
    assert free_bytes(torch.device("meta")) == pytest.approx(left, rel=0.2)


@pytest.mark.parametrize("old", [False, True])
def test_each_group_up_to_the_top_counts(tmp_path, old):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("4:memory:/pod/box\n2:cpu:/pod/box\n" if old else "0::/pod/box\n")
    top = root / "memory" if old else root
    group(top / "pod", limit=1000, used=700, cached=100, old=old)
    group(top / "pod" / "box", limit=800, used=100, cached=0, old=old)
    assert sorted(container_bytes(root, own)) == [400, 700]


def test_a_container_sees_its_own_group_at_the_top(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/host/path/that/is/not/mounted/here\n")
    group(root, limit=2 << 30, used=1 << 30, cached=0)
    assert container_bytes(root, own) == [1 << 30]


def test_no_limit_and_no_groups(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    assert container_bytes(root, own) == []
    own.write_text("0::/\nnonsense\n")
    assert container_bytes(root, own) == []
    group(root, limit="max", used=5, cached=0)
    assert container_bytes(root, own) == []
    group(root, limit=10, used=50, cached=0)
    assert container_bytes(root, own) == [0], "more than allowed is taken: nothing is left, and not less"


def test_a_gpu_counts_what_torch_holds_unused():
    if not torch.cuda.is_available():  # no program that an installation could lack
        pytest.skip("there is no GPU")
    before = free_bytes(torch.device("cuda"))
    held = torch.zeros(1 << 26, device="cuda")
    during = free_bytes(torch.device("cuda"))
    del held
    assert before - during >= 1 << 27
    assert free_bytes(torch.device("cuda")) >= before - (1 << 26)
