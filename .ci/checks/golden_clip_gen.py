"""Parity of a released CLIP-GEN with the authors' GPT, and the name of every released tensor here.

    python .ci/checks/golden_clip_gen.py [shared folder, default ../shared] [--full]

The network: loaded by `load_released_clip_gen` and compared with recorded outputs. The tokenizer, of which there is no recording: compared with torch's own modules put together from the list of names,
at a small size, and with --full at the released one, both files with random weights (1.7 GB of disk, 6 GB of memory, minutes).
Not part of the package: it needs the reference files, which are not committed."""
import json, resource, sys, tempfile, time
from pathlib import Path

import torch
import torch.nn.functional as F

from clip_vqdiffusion.clip_gen import CLIPGen, CLIPGenConfig, KVCache, next_token, sample_clip_gen
from clip_vqdiffusion.recipes import clip_gen_recipe
from clip_vqdiffusion.released import clip_gen_key_map, load_released, load_released_clip_gen, load_released_tokenizer, vqgan_config


def check_keys(file):
    d = json.load(open(file))
    keys = {k: tuple(v['shape']) for k, v in d['keys'].items() if v['kind'] == 'param'}
    cfg = CLIPGenConfig.preset('gpt2_medium')
    c = d['config']
    assert (cfg.K, cfg.depth, cfg.width, cfg.heads, cfg.grid, cfg.clip_dim, cfg.dropout) == (c['vocab_size'], c['n_layer'], c['n_embed'], c['n_head'], (16, 16), c['n_cond_embed'], c['dropout']) and c['block_size'] == 256
    with torch.device('meta'): ours = {n: tuple(p.shape) for n, p in CLIPGen(cfg).named_parameters()}
    m = clip_gen_key_map(cfg)
    assert len(set(m.values())) == len(m)
    want = {m[n]: (1, *s) if n == 'positions.weight' else s for n, s in ours.items()}
    assert want == keys, sorted(set(want.items()) ^ set(keys.items()))[:6]
    rest = sorted(set(d['keys']) - set(keys))
    assert rest == sorted(f'blocks.{i}.mask' for i in range(cfg.depth)), rest
    with torch.device('meta'): large = sum(p.numel() for p in CLIPGen(CLIPGenConfig.preset('gpt2_large')).parameters())
    assert large == d['gpt2_large_parameters']
    print(f'{Path(file).name}: {len(keys)} tensors, every one with a counterpart of its shape; {len(rest)} mask buffers have none')


def check_network(file):
    g = torch.load(file, weights_only=True)
    h, sd = g['hparams'], g['state_dict']
    model = load_released_clip_gen({'model': sd, 'epoch': 1}, h['n_head'])
    cfg, m = model.cfg, clip_gen_key_map(model.cfg)
    want = dict(grid=(4, h['block_size'] // 4), K=h['vocab_size'], width=h['n_embed'], depth=h['n_layer'], clip_dim=h['n_cond_embed'])
    assert {k: getattr(cfg, k) for k in want} == want, cfg
    idx, c = g['idx'], g['cond']
    logits = model(idx[:, :-1], c)
    loss = F.cross_entropy(logits.flatten(0, 1), idx.flatten())
    loss.backward()
    with torch.no_grad():
        cache = KVCache(cfg, len(idx))
        stepwise = torch.cat([model(idx[:, :n], c, cache) for n in range(model.N)], 1)
        errors = dict(logits=logits - g['logits'], one_by_one_with_cache=stepwise - g['logits'], condition_only=model(idx[:, :0], c) - g['logits_cond_only'], fast_path=logits - g['logits_fastpath'], loss=loss - g['loss'])
        for name, norm in g['grad_norms'].items():
            ours = next(n for n, t in m.items() if t == name)
            errors[f'gradient norm of {name}, relative'] = torch.tensor(model.get_parameter(ours).grad.norm().item() / norm - 1)
        for name, grad in g['grads'].items():
            p = model.get_parameter(next(n for n, t in m.items() if t == name))
            errors[f'gradient of {name}'] = p.grad.view_as(grad) - grad
        worst = {}
        for k, e in errors.items():
            group = k.split(' of ')[0]
            worst[group] = max(worst.get(group, 0), e.abs().max().item())
        for k, v in worst.items(): print(f'  {k}: largest difference {v:.1e}'); assert v < 2e-5, k
        d64 = (model.double()(idx[:, :-1], c.double()) - g['logits_f64']).abs().max().item()
        print(f'  float64: {d64:.1e}'); assert d64 < 1e-12
        model.float()
    for cache in (True, False):
        greedy = sample_clip_gen(model, c, top_k=1, cache=cache)
        assert torch.equal(greedy, g['greedy']['tokens']), 'greedy decoding'
    print(f'  greedy decoding: all {greedy.numel()} tokens, with and without cache')
    s = g['sample']
    torch.manual_seed(s['seed'])
    drawn = sample_clip_gen(model, c, s['temperature'], s['top_k'], s['top_p'])
    assert torch.equal(drawn, s['tokens']), f"seeded drawing: {(drawn == s['tokens']).float().mean():.0%} of the tokens"
    print(f"  drawing with seed {s['seed']}, top_k {s['top_k']}, top_p {s['top_p']}: all {drawn.numel()} tokens")
    f = g['top_k_top_p']
    for name, kw in dict(k10=dict(top_k=10), **{'p0.9': dict(top_p=0.9), 'k10_p0.8': dict(top_k=10, top_p=0.8)}).items():
        diff = (next_token(f['input'], **kw) - f[name].softmax(-1)).abs().max().item()
        print(f'  {name}: largest difference {diff:.1e}'); assert diff < 1e-6, name


def numbers_for(keys, generator):
    "A state dict with random numbers for a list of names."
    def number(k, v):
        shape = v['shape']
        if v['dtype'] == 'bool': return torch.ones(shape, dtype=torch.bool).triu(1)
        if v['dtype'] == 'int64': return torch.tensor(7)
        x = torch.randn(shape, generator=generator)
        if len(shape) > 1: return x / (x[0].numel() ** 0.5 if 'emb' not in k else 1)
        return 0.1 * x + (k.endswith('weight') or k.endswith('running_var'))
    return {k: number(k, v) for k, v in keys.items()}


def reference(sd):
    "Encoder (pixels to features) and decoder (codes to pixels) from torch's own modules; every tensor of a part is loaded strictly."
    def module(m, prefix): m.load_state_dict({k[len(prefix):]: v for k, v in sd.items() if k.startswith(prefix)}); return m.eval()
    def conv(name, **kw): w = sd[f'{name}.weight']; return module(torch.nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], **kw), f'{name}.')
    def norm(name): return module(torch.nn.GroupNorm(32, len(sd[f'{name}.weight'])), f'{name}.')
    def res(name):
        f = torch.nn.Sequential(norm(f'{name}.block.0'), torch.nn.SiLU(), conv(f'{name}.block.2', padding=1), norm(f'{name}.block.3'), torch.nn.SiLU(), conv(f'{name}.block.6', padding=1))
        side = conv(f'{name}.shortcut') if f'{name}.shortcut.weight' in sd else torch.nn.Identity()
        return lambda x: side(x) + f(x)
    def att(name):
        n, a = norm(f'{name}.norm'), module(torch.nn.MultiheadAttention(len(sd[f'{name}.norm.weight']), 1, batch_first=True), f'{name}.attn.')
        def run(x): h = n(x).flatten(2).mT; return x + a(h, h, h, need_weights=False)[0].mT.reshape(x.shape)
        return run
    def level(name, up):
        c = conv(name, padding=1) if up else conv(name, stride=2)
        return (lambda x: c(F.interpolate(x, scale_factor=2, mode='nearest'))) if up else (lambda x: c(F.pad(x, (0, 1, 0, 1))))
    def row(name):
        layers = []
        for i in range(1 + max(int(k.split('.')[2]) for k in sd if k.startswith(f'{name}.'))):
            n = f'{name}.{i}'
            layers.append(res(n) if f'{n}.block.2.weight' in sd else att(n) if f'{n}.norm.weight' in sd else level(f'{n}.conv', 'up' in name))
        return layers
    def run(layers, x):
        for l in layers: x = l(x)
        return x
    end = lambda name: [norm(f'{name}.0'), torch.nn.SiLU(), conv(f'{name}.2', padding=1)]
    encoder = [conv('encoder.conv_in', padding=1), *row('encoder.down'), *row('encoder.mid'), *end('encoder.final'), conv('encoder.final.3')]
    decoder = [conv('decoder.quant_conv_in'), conv('decoder.conv_in', padding=1), *row('decoder.mid'), *row('decoder.up'), *end('decoder.final')]
    return lambda x: run(encoder, x), lambda codes: run(decoder, sd['quantizer.embedding.weight'][codes].permute(0, 3, 1, 2))


def small(keys, width=8):
    "The same list with an eighth of the widths, and fewer codes."
    shrink = lambda k, i, n: n if n <= 4 or 'discriminator' in k else n // 32 if k.startswith('quantizer') and i == 0 else max(n // width, 1)
    return {k: dict(v, shape=[shrink(k, i, n) for i, n in enumerate(v['shape'])]) for k, v in keys.items()}


def compare(tok, sd, size, allowed):
    features, decode = reference(sd)
    g, side = torch.Generator().manual_seed(0), tok.grid[0]
    x, codes = torch.rand(1, 3, size, size, generator=g) * 2 - 1, torch.randint(0, tok.K, (1, side * side), generator=g)
    with torch.no_grad():
        theirs = features(x).flatten(2).mT
        errors = dict(features=((tok.quantizer.features(tok.encoder(x)) - theirs).abs().max() / theirs.abs().max()).item(), pictures=(tok.decode(codes) - decode(codes.view(1, side, side)).clamp(-1, 1)).abs().max().item())
        d = torch.cdist(theirs.double(), sd['quantizer.embedding.weight'].double()).topk(2, largest=False)
        clear = d.values[..., 1] - d.values[..., 0] > 20 * allowed  # else rounding decides
        differ = ((tok.encode(x) != d.indices[..., 0]) & clear).sum().item()
    for k, v in errors.items(): print(f'  {k}: largest difference {v:.1e} (features: as a share)'); assert v < allowed, k
    print(f'  codes: {differ} of the {clear.sum()} clear ones (of {codes.numel()}) differ'); assert not differ


def check_vqgan(file):
    d = json.load(open(file))
    with torch.device('meta'): shapes = {k: torch.empty(v['shape']) for k, v in d['keys'].items()}
    cfg, c = vqgan_config(shapes), d['config']
    assert cfg == clip_gen_recipe('gpt2_medium').tokenizer
    assert (cfg.codes, cfg.code_dim, cfg.channels, cfg.channel_mult, cfg.res_blocks, cfg.attention, cfg.image_size, cfg.z_channels) == (c['codebook_size'], c['n_embed'], c['ch'], tuple(c['ch_mult']), c['num_res_blocks'], tuple(c['attn_resolutions']), c['resolution'], c['z_channels'])
    print(f"{Path(file).name}: {len(shapes)} tensors, sizes as in the recipe")
    keys = small(d['keys'], 4)
    sd = numbers_for(keys, torch.Generator().manual_seed(1))
    compare(load_released_tokenizer({'model': sd, 'epoch': 1}, 64), sd, 64, 2e-5)


def check_full(ref):
    g = torch.Generator().manual_seed(2)
    with tempfile.TemporaryDirectory() as d:
        for name, keys in dict(gpt='clipgen_gpt2_medium', vqgan='clipgen_vqgan_16384').items():
            sd = numbers_for(json.load(open(ref / f'keys/keys_{keys}.json'))['keys'], g)
            torch.save({'model': sd, 'epoch': 1}, f'{d}/{name}.pt')
        start = time.perf_counter()
        pipe = load_released(f'{d}/gpt.pt', f'{d}/vqgan.pt', None)
        print(f'full size: loaded strictly in {time.perf_counter() - start:.1f} s')
        start = time.perf_counter()
        compare(pipe.tokenizer, sd, 256, 1e-3)
        print(f'  compared in {time.perf_counter() - start:.0f} s; at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.1f} GB of memory')


if __name__ == '__main__':
    rest = [a for a in sys.argv[1:] if a != '--full']
    ref = Path(rest[0] if rest else Path(__file__).parents[2] / '../shared') / 'reference'
    check_keys(ref / 'keys/keys_clipgen_gpt2_medium.json')
    check_network(ref / 'golden/clipgen_gpt_tiny.pt')
    check_vqgan(ref / 'keys/keys_clipgen_vqgan_16384.json')
    if '--full' in sys.argv: check_full(ref)
