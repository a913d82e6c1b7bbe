"""Packaging. Everything that is said once is said in settings.ini, which nbdev reads too."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
if not parser.read(here/"settings.ini", encoding="utf-8"): raise FileNotFoundError("setup.py needs settings.ini beside it.")
cfg = parser["DEFAULT"]
lib = cfg["lib_path"]

EVAL = ["torchmetrics", "torch-fidelity"]  # FID and its kin; they download Inception weights
DATA = {".safetensors", ".json", ".md", ".gz", ".txt"}  # bundled weights, configurations, model cards, BPE vocabulary

def long_description():
    "README.md, its links made absolute: PyPI has no files beside it."
    path = here/"README.md"
    if not path.is_file(): return cfg["description"]
    text, branch = path.read_text(encoding="utf-8"), cfg["branch"]
    raw = f"{cfg['git_url'].replace('github.com', 'raw.githubusercontent.com')}/{branch}/"
    page = f"{cfg['git_url']}/blob/{branch}/"
    relative = r"(?![a-z][a-z0-9+.-]*:|//|#)(?:\./)?"
    text = re.sub(rf"(!\[[^\]]*\]\(){relative}", rf"\g<1>{raw}", text)                 # ![images](...)
    text = re.sub(rf"(<img\b[^>]*?\bsrc=[\"']){relative}", rf"\g<1>{raw}", text)       # <img src="...">
    return re.sub(rf"(\]\(){relative}", rf"\g<1>{page}", text)                        # what is left: [links](...)

def package_data():
    "The bundled models, the words for drawn faces and the mark of typed code, relative to the package."
    root = here/lib
    found = [root/"py.typed", root/"lexicon.json", *sorted(root.glob("models/**/*"))]
    return [str(p.relative_to(root)) for p in found if p.is_file() and p.suffix in DATA | {".typed"}]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Source": cfg["git_url"]},
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        *(f"Programming Language :: Python :: {v}" for v in ("3", "3.11", "3.12", "3.13")),
    ],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: package_data()},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split(), "eval": EVAL},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
