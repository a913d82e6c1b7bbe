"""user_script.py runs, and pyright accepts it in strict mode, as it would in a user's environment.

There the package is installed, and with `py.typed` a type checker believes annotations only. So the package is put into an
environment of its own, away from the tree. Needs `pyright` or `basedpyright` (which brings its own node) on PATH or beside this Python."""
import json, os, shutil, subprocess, sys, tempfile, venv
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / 'clip_vqdiffusion'


def checkers():
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')])
    return [found for name in ('pyright', 'basedpyright') if (found := shutil.which(name, path=places))]


def environment(folder):
    "An environment with this package, and this Python's other packages by path (.pth files in there are not read)."
    venv.create(folder, symlinks=os.name != 'nt')
    python = folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site, ours = (Path(subprocess.check_output([p, '-c', ask], text=True).strip()) for p in (python, sys.executable))
    shutil.copytree(PACKAGE, site / 'clip_vqdiffusion', ignore=shutil.ignore_patterns('__pycache__'))
    (site / 'first.pth').write_text(f'{ours}\n', encoding='utf-8')
    return python


def main():
    found = checkers()
    if not found: sys.exit("there is neither pyright nor basedpyright here: pip install basedpyright")
    with tempfile.TemporaryDirectory() as d:
        python, work = environment(Path(d) / 'env'), Path(d) / 'work'
        work.mkdir()
        shutil.copy(HERE / 'user_script.py', work)
        (work / 'wrong.py').write_text('from clip_vqdiffusion import CLIPVQDiffusion\n\nCLIPVQDiffusion.from_pretrained("avatars").vary("no picture")\n')
        (work / 'pyrightconfig.json').write_text(json.dumps(dict(typeCheckingMode='strict')))
        for checker in found:
            def strict(file): return subprocess.run([checker, '-p', '.', '--pythonpath', str(python), '--outputjson'], cwd=work, capture_output=True, text=True)
            told = json.loads(strict(work).stdout)
            bad = [f"{Path(m['file']).name}:{m['range']['start']['line'] + 1}: {m['message']}" for m in told['generalDiagnostics'] if m['severity'] == 'error']
            mine, other = ([b for b in bad if b.startswith(name)] for name in ('user_script.py', 'wrong.py'))
            print(f"{Path(checker).name} {told['version']}: {told['summary']['filesAnalyzed']} files, {len(mine)} errors in user_script.py, {len(other)} in a script that is wrong")
            if mine or not other: sys.exit('\n'.join(mine) or "a picture that is a text was not noticed")
        environ = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(HF_HUB_OFFLINE='1')
        subprocess.run([python, work / 'user_script.py'], cwd=work, env=environ, check=True)
        drawn = sorted(p.name for p in work.rglob('*.png'))
        print('it drew', *drawn)
        assert drawn == ['face-1.png', 'face-2.png', 'hat.png'], drawn


if __name__ == '__main__': main()
