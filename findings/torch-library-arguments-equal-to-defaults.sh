#!/usr/bin/env bash
# A kernel in Python of a torch.library operator does not get arguments that equal their defaults.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-28
# Behaviour: The schema of an operator gives an argument a default. The caller passes that argument explicitly. If its value
#            equals the default, the dispatcher leaves it out when it calls a kernel that is written in Python; with any
#            other value the kernel gets it. So a kernel whose own signature has no default works in tests that pass
#            another value, and fails when the caller writes the default out. Each kernel, fake and autograd rule in Python
#            has to repeat the defaults of the schema.
# Output:    scale(x, "half"): the kernel gets 2 arguments
#            scale(x, "double"): the kernel gets 1 argument
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch

library = torch.library.Library("finding", "DEF")
library.define("scale(Tensor x, str mode='double') -> Tensor")
counts = []


def kernel(*args):
    counts.append(len(args))
    return args[0].clone()


library.impl("scale", kernel, "CompositeExplicitAutograd")
x = torch.ones(1)
torch.ops.finding.scale(x, "half")
torch.ops.finding.scale(x, "double")
print(f'scale(x, "half"): the kernel gets {counts[0]} arguments')
print(f'scale(x, "double"): the kernel gets {counts[1]} argument')
assert counts == [2, 1], counts
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
