"""Drawings of a model trained on photos, judged from outside: which kind does a classifier see that has no part in the model?

    python photos_judged.py DATA MODEL PICTURE      DATA with train and test, as in tutorials/01_your_own_photos"""
import json, os, sys
from collections import Counter
from pathlib import Path
import torch
sys.path.insert(0, str(Path(__file__).resolve().parent))
import photos_measuring as pm
from clip_vqdiffusion.evaluation import frechet_distance
from clip_vqdiffusion.show import image_grid

def rows(folder): return [json.loads(line) for line in (folder/'metadata.jsonl').read_text().splitlines()]

def ten_kinds(data):
    "The ten commonest kinds of the test photos, and for each its commonest text in the training photos."
    common = sorted(kind for kind, _ in Counter(r['label'] for r in rows(data/'test')).most_common(10))
    text = {k: Counter(r['text'] for r in rows(data/'train') if r['label'] == k).most_common(1)[0][0] for k in common}
    return common, text

def judge(data, kinds):
    "The classifier of these kinds, trained on the training photos unless it is there."
    name = f'{data.name}_ten'
    pm.DATA, pm.JUDGES = data.parent, Path(os.environ.get('CLIPVQD_WORK', pm.JUDGES))
    if pm.judge_of(name) is None: pm.train_judge(data.name, 14, kinds, name)
    net, there = pm.judge_of(name)
    assert there == kinds, 'this judge was trained for other kinds'
    return net

def interval(right, n, z=1.96):
    "Wilson's 95 % interval of a share."
    p, w = right/n, z*z/n
    half = z*(p*(1 - p)/n + w/(4*n))**.5
    return [(p + w/2 - half)/(1 + w), (p + w/2 + half)/(1 + w)]

@torch.no_grad()
def seen(net, x):
    "Kinds (B,) and features (B, 192) of pictures in [-1, 1]."
    x = torch.cat([pm.small(part) for part in x.split(256)])
    f = torch.cat([net.features(part) for part in x.split(128)])
    return net.out(f).argmax(1), f

def photos(data, part, kinds):
    "Pictures (B, 3, 128, 128) in [-1, 1] of these kinds, and their kinds (B,)."
    x, labels = pm.load(data/part)
    keep = [i for i, l in enumerate(labels) if l in kinds]
    return x[keep].float()/127.5 - 1, torch.tensor([kinds.index(labels[i]) for i in keep])

def share(kinds_seen, kinds_true, n):
    hit = kinds_seen == kinds_true
    right = int(hit.sum())
    each = [hit[kinds_true == k].float().mean().item() for k in range(n)]
    return dict(n=len(hit), right=right/len(hit), interval=interval(right, len(hit)), each=each)

def as_often(y_train, y, seed=0):
    "Indices of training photos that show each kind as often as the test photos do."
    g = torch.Generator().manual_seed(seed)
    some = []
    for kind, n in enumerate(y.bincount().tolist()):
        mine = (y_train == kind).nonzero().flatten()
        some.append(mine[torch.randperm(len(mine), generator=g)[:n]])
    return torch.cat(some)

@torch.no_grad()
def judged(data, pipe, seed=1):
    """What the judge says of test photos, of their reconstructions, of training photos and of drawings, which show each
    kind as often as the test photos do; Fréchet distances to the test photos."""
    data = Path(data)
    kinds, text = ten_kinds(data)
    net = judge(data, kinds)
    x, y = photos(data, 'test', kinds)
    size = pipe.tokenizer.cfg.image_size
    again = torch.cat([pipe.tokenizer.decode(pipe.tokenizer.encode(part)) for part in pm.small(x, size).split(64)])
    asked = y.sort().values
    drawn = pipe([text[kinds[k]] for k in asked.tolist()], generator=torch.Generator().manual_seed(seed))
    train, y_train = photos(data, 'train', kinds)
    some = as_often(y_train, y)
    sets = {'test photos': (x, y), 'reconstructed': (again, y), 'training photos': (train[some], y_train[some]),
            'drawings': (pipe.tokenizer.decode(drawn.tokens), asked)}
    features, out = {}, {}
    for name, (pictures, true) in sets.items():
        said, features[name] = seen(net, pictures)
        out[name] = share(said, true, len(kinds))
        out[name]['distance'] = frechet_distance(features[name], features['test photos'])
    return dict(kinds=kinds, prompts=[text[k] for k in kinds], sets=out, defaults=pipe.defaults)

@torch.no_grad()
def guidances(data, pipe, scales=(1., 2., 3., 4.), seed=2):
    "For each guidance scale: the share of drawings of the right kind, and their distance to the test photos."
    data, out = Path(data), {}
    kinds, text = ten_kinds(data)
    net = judge(data, kinds)
    x, y = photos(data, 'test', kinds)
    true, asked = seen(net, x)[1], y.sort().values
    for scale in scales:
        how = dict(generator=torch.Generator().manual_seed(seed), guidance_scale=scale)
        drawn = pipe([text[kinds[k]] for k in asked.tolist()], **how)
        said, f = seen(net, pipe.tokenizer.decode(drawn.tokens))
        out[str(scale)] = share(said, asked, len(kinds)) | dict(distance=frechet_distance(f, true))
    return out

def grid(data, pipe, rows=6, seed=0):
    "The first drawings for each kind, a column each; nothing is selected."
    kinds, text = ten_kinds(Path(data))
    drawn = pipe([text[k] for k in kinds], num_images_per_prompt=rows, generator=torch.Generator().manual_seed(seed))
    return image_grid([drawn.images[k*rows + i] for i in range(rows) for k in range(len(kinds))], cols=len(kinds))

if __name__ == '__main__':
    from clip_vqdiffusion.pipeline import CLIPVQDiffusion
    pipe = CLIPVQDiffusion.from_pretrained(sys.argv[2])
    grid(sys.argv[1], pipe).save(sys.argv[3])
    print(json.dumps(judged(sys.argv[1], pipe), indent=1))
