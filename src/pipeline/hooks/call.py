# Calls one function of one file: what `python3 -c` is given for a python hook.
#
# Standard input says which function and with what; the last argument is the file, opened already. Nothing of the file's directory is on the module
# path. The function's answer becomes the exit code: false, and a map that says `success: false`, are failures; so is an exception.
import json
import sys
import types

order = json.load(sys.stdin)
with open(sys.argv[1], "rb") as file:
    code = compile(file.read(), order["file"], "exec")
module = types.ModuleType("hyper2kvm_hook")
module.__file__ = order["file"]
sys.modules[module.__name__] = module
exec(code, module.__dict__)
name = order["function"]
function = module.__dict__.get(name)
# What the file only imported is not its own: `from os import system` makes nobody's shell of it.
if not isinstance(function, types.FunctionType) or function.__module__ != module.__name__:
    sys.exit(f"{order['file']} defines no function `{name}`")
answer = function(**order["args"])
if isinstance(answer, dict):
    if answer.get("output") is not None:
        print(answer["output"])
    if answer.get("error") is not None:
        print(answer["error"], file=sys.stderr)
    answer = answer.get("success", True)
if answer is not None and isinstance(answer, bool) and not answer:
    sys.exit(f"{name}() says that it failed")
