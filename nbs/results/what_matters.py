"""The runs of tutorials/05_what_matters: many small denoisers, each with one choice changed.

    python nbs/results/what_matters.py [--minutes 50] [--only alpha,gap]

Each run writes one JSON to nbs/results/what_matters and is skipped when that is there. One thread; the faces and their tokens
are kept in ~/.cache/what_matters. Runs come in rounds of seeds: first every choice with seed 0, then with 1, then with 2."""
import argparse, copy, json, math, time
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from clip_vqdiffusion.avatars import avatars
from clip_vqdiffusion.clip import embed_images, embed_texts
from clip_vqdiffusion.denoiser import Denoiser, DenoiserConfig
from clip_vqdiffusion.examination import eval_prompts, fitting_faces, stated
from clip_vqdiffusion.judge import load_judge
from clip_vqdiffusion.pipeline import CLIPVQDiffusion
from clip_vqdiffusion.pseudo_text import widen_gap
from clip_vqdiffusion.sampling import sample
from clip_vqdiffusion.show import _machine
from clip_vqdiffusion.training import DenoiserObjective, DenoiserTraining, bits_per_token

HERE, HOME = Path(__file__).parent/'what_matters', Path('~/.cache/what_matters').expanduser()
FACES, UNSEEN, PROMPTS, STEPS, BATCH, SEEDS = 8000, 256, 200, 150, 64, 3


class Added(Denoiser):
    "The embedding is added to every token, before every block. Attention over one vector, as in cross-attention, does the same."
    def __init__(self, cfg):
        super().__init__(cfg)
        self.told = nn.ModuleList(nn.Linear(cfg.clip_dim, cfg.width) for _ in self.blocks)

    def begin(self, x, c): return x
    def end(self, x): return x
    def tell(self, x, c, i): return x + self.told[i](c)[:, None]

    def forward(self, xt, t=None, c=None, cond=(None, None)):
        c = self.condition(c) if cond[1] is None else cond[1]   # the sampler asks for `condition` itself
        mt = self.timestep(t) if cond[0] is None else cond[0]
        x = self.tokens(xt) + (self.rows.weight[:, None] + self.cols.weight).flatten(0, 1)
        nothing, x = torch.zeros_like(mt[:, 0]), self.begin(x, c)
        for i, block in enumerate(self.blocks): x = block(self.tell(x, c, i), mt[:, i].expand(len(x), -1, -1), nothing)
        return self.head(self.norm(self.end(x)))

    def condition(self, c): return c*self.cfg.clip_dim**.5

class AddedTwo(Added):
    "The same through two layers with a narrow middle that begin at zero, as the layer norms get it."
    def __init__(self, cfg):
        super().__init__(cfg)
        two = lambda: nn.Sequential(nn.Linear(cfg.clip_dim, cfg.cond_width), nn.SiLU(), nn.Linear(cfg.cond_width, cfg.width))
        self.told = nn.ModuleList(two() for _ in self.blocks)
        for m in self.told:  # as in the blocks: small numbers, and nothing is added at the beginning
            nn.init.normal_(m[0].weight, std=.02)
            for p in (m[0].bias, m[2].weight, m[2].bias): nn.init.zeros_(p)

class Prefix(Added):
    "The embedding is one more token, in front of the others."
    def __init__(self, cfg):
        super().__init__(cfg)
        self.told = nn.Linear(cfg.clip_dim, cfg.width)
    def begin(self, x, c): return torch.cat([self.told(c)[:, None].expand(len(x), -1, -1), x], 1)
    def end(self, x): return x[:, 1:]
    def tell(self, x, c, i): return x


def cosine(T=100):
    "Masks only, their share a quarter of a cosine: few at first, then more and more."
    keep = [math.cos(math.pi/2*t/T)*(1 - 1e-5) for t in range(1, T)] + [9e-6]
    return dict(alpha_bar=keep, gamma_bar=[1 - k for k in keep])


BASE = dict(alpha=.25, gap='small', shift=False, aux=.05, drop=0., net='norms', guidance=1., schedule='released', qk=False, rope=False)
CHOICES = {  # question -> answer -> what differs from BASE
    'alpha': {'0': dict(alpha=0.), '0.25': {}, '0.5': dict(alpha=.5), '1': dict(alpha=1.), '1.5': dict(alpha=1.5)},
    'gap': {'0': dict(gap='wide', alpha=0.), '0.5': dict(gap='wide', alpha=.5), '1.5': dict(gap='wide', alpha=1.5),
            'shifted, 0': dict(gap='wide', alpha=0., shift=True), 'shifted, 1.5': dict(gap='wide', alpha=1.5, shift=True)},
    'condition': {'both norms, gates': {}, 'paper': dict(net='paper'), 'added': dict(net='added'), 'first token': dict(net='prefix')},
    'auxiliary': {'0': dict(aux=0.), '5e-4': dict(aux=5e-4), '0.05': {}},
    'schedule': {'released': {}, 'replace': dict(schedule='replace'), 'cosine': dict(schedule='cosine')},
    'drop': {'0 %': {}, '10 %': dict(drop=.1), '20 %': dict(drop=.2),
             '10 %, guided': dict(drop=.1, guidance=1.5), '20 %, guided': dict(drop=.2, guidance=1.5)},
    'attention': {'plain': {}, 'QK-norm': dict(qk=True), 'rotary': dict(rope=True)},
    'longer': {'0.25': dict(steps=600), '0': dict(alpha=0., steps=600), '1.5': dict(alpha=1.5, steps=600),
               'wide 0': dict(gap='wide', alpha=0., steps=600), 'wide 0.5': dict(gap='wide', alpha=.5, steps=600),
               'wide 1.5': dict(gap='wide', alpha=1.5, steps=600),
               'auxiliary 5e-4': dict(aux=5e-4, steps=600), 'paper': dict(net='paper', steps=600),
               'added': dict(net='added', steps=600), 'added, two layers': dict(net='added2', steps=600), 'first token': dict(net='prefix', steps=600)},
}


def data():
    "Tokens and embeddings of faces, the texts asked for, and both on the wide gap."
    file, pipe = HOME/'data.pt', CLIPVQDiffusion.from_pretrained('avatars')
    if not file.is_file():
        sets = dict(train=avatars(FACES), unseen=avatars(UNSEEN, seed=12345))
        out = {}
        for name, faces in sets.items():
            tokens, e = [], []
            for i in range(0, len(faces), 64):
                x = torch.stack([faces[j]['image'] for j in range(i, min(i + 64, len(faces)))])
                tokens.append(pipe.tokenizer.encode(x)); e.append(embed_images(pipe.clip, x))
            out[name] = torch.cat(tokens), torch.cat(e)
        HOME.mkdir(parents=True, exist_ok=True)
        torch.save(out, file)
    out = torch.load(file, weights_only=True)
    asked = eval_prompts(PROMPTS, 'in') + eval_prompts(PROMPTS, 'out')
    texts = embed_texts(pipe.clip, [p['text'] for p in asked])
    shown = embed_images(pipe.clip, fitting_faces(asked))
    wu, wv, m = widen_gap(shown, texts, generator=torch.Generator().manual_seed(0))
    side = wu[0] @ m
    def wide(e): return (1 - side**2)**.5*F.normalize(e - (e @ m)[:, None]*m, dim=-1) + side*m
    return pipe, asked, dict(small=(out, texts), wide=({k: (x, wide(e)) for k, (x, e) in out.items()}, wv))


def build(s):
    "The network of some settings."
    kinds = dict(norms=Denoiser, paper=Denoiser, added=Added, added2=AddedTwo, prefix=Prefix)
    schedule = cosine() if s['schedule'] == 'cosine' else s['schedule']
    cfg = DenoiserConfig.preset('tiny', width=128, depth=4, cond_width=64, block='paper' if s['net'] == 'paper' else 'zero',
                                schedule=schedule, qk_norm=s['qk'], position='rope' if s['rope'] else 'hw')
    return kinds[s['net']](cfg)


def check(net):
    "Training and the sampler, which asks for the condition itself, must get the same answers."
    net, g = copy.deepcopy(net).eval(), torch.Generator().manual_seed(0)
    for p in net.parameters(): p.data = p.data + .05*torch.randn(p.shape, generator=g)   # some parts begin at zero
    x, t, c = torch.full((2, 64), net.K), torch.tensor([9, 90]), F.normalize(torch.randn(2, net.cfg.clip_dim, generator=g), dim=-1)
    with torch.no_grad(): a, b = net(x, t, c), net(x, t, c, cond=(net.timestep(t), net.condition(c)))
    assert a.std() > .01 and (a - b).abs().max() < 1e-3, 'training and drawing do not ask the same network'


def train(s, seed, x0, e, steps):
    "A denoiser after so many steps, in eval mode."
    torch.manual_seed(seed)
    net = build(s)
    how = DenoiserTraining(alpha=s['alpha'], null_drop=s['drop'], aux_weight=s['aux'])
    objective = DenoiserObjective(net, how).train()
    adam = torch.optim.AdamW(net.parameters(), betas=(.9, .98))
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, steps, pct_start=.1)
    for step in range(steps):
        rows = torch.randint(len(x0), (BATCH,))
        with torch.autocast('cpu', torch.bfloat16): loss, _ = objective(x0[rows], e[rows])
        adam.zero_grad(); loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.)
        adam.step(); rate.step()
    return net.eval()


def right(judge, pipe, asked, tokens):
    "For each prompt the share of its values that the judge sees."
    said = stated(asked)
    seen = (torch.cat([judge.read(pipe.tokenizer.decode(t)) for t in tokens.split(64)]) == said) & (said >= 0)
    return (seen.sum(1)/(said >= 0).sum(1)).tolist()


def run(name, s, seed, pipe, judge, asked, spaces, steps=STEPS):
    begun, steps = time.time(), s.get('steps', steps)
    sets, texts = spaces[s['gap']]
    (x0, e), (y0, f) = sets['train'], sets['unseen']
    if s['shift']: e, f = (F.normalize(v - e.mean(0) + texts.mean(0), dim=-1) for v in (e, f))
    check(build(s))
    net = train(s, seed, x0, e, steps)
    trained = time.time() - begun
    rows = [dict(tokens=t, embedding=v) for t, v in zip(y0, f)]
    draws = {}
    for truncation in ((.7, 1., .01) if name == 'alpha, 1.5' else (.7,)):
        tokens = sample(net, texts, 8, s['guidance'], truncation, scheduler='purity', generator=torch.Generator().manual_seed(seed))
        shares = right(judge, pipe, asked, tokens)
        draws[str(truncation)] = dict(seen=shares[:PROMPTS], unseen=shares[PROMPTS:])
    return dict(question=name.split(', ')[0], answer=name.split(', ', 1)[1], settings=s, seed=seed, steps=steps,
                bits=bits_per_token(net, rows, UNSEEN), right={k: {p: [round(v, 3) for v in x] for p, x in d.items()} for k, d in draws.items()},
                parameters=sum(p.numel() for p in net.parameters()), train_seconds=round(trained, 1),
                seconds=round(time.time() - begun, 1), machine=_machine(), torch=torch.__version__, date=str(date.today()))


def main():
    a = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    a.add_argument('--minutes', type=float, default=0); a.add_argument('--only', default='')
    a.add_argument('--steps', type=int, default=STEPS); a.add_argument('--out', default=str(HERE))
    a = a.parse_args()
    torch.set_num_threads(1)
    begun, out = time.time(), Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    wanted, done = [q for q in CHOICES if not a.only or q in a.only.split(',')], {}
    pipe, asked, spaces = data()
    judge = load_judge('avatars')
    for seed in range(SEEDS):
        for q in wanted:
            for answer, change in CHOICES[q].items():
                file, s = out/f"{q}-{answer.replace(' ', '_').replace(',', '')}-{seed}.json", BASE | change
                if file.is_file() or (change == {} and q != 'alpha'): continue   # the base is run once
                if a.minutes and time.time() - begun > 60*a.minutes: return
                r = run(f'{q}, {answer}', s, seed, pipe, judge, asked, spaces, a.steps)
                part = file.with_suffix('.part')
                part.write_text(json.dumps(r) + '\n'); part.replace(file)
                mean = {p: 100*sum(x)/len(x) for p, x in r['right']['0.7'].items()}
                print(f"{file.stem}: {r['bits']:.2f} bits, seen {mean['seen']:.1f}, unseen {mean['unseen']:.1f} %, {r['seconds']} s", flush=True)

if __name__ == '__main__': main()
