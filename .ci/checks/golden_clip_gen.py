"""Parity of `CLIPGen` with the authors' GPT, and the name of every released tensor here.

    python .ci/checks/golden_clip_gen.py [shared folder, default ../shared]

Not part of the package: it needs the reference files, which are not committed.
"""
import json, sys
from pathlib import Path

import torch
import torch.nn.functional as F

from clip_vqdiffusion.clip_gen import CLIPGen, CLIPGenConfig, KVCache, next_token, sample_clip_gen

HEAD = {'positions.weight': 'pos_emb', 'tokens.weight': 'tok_emb.weight', 'project.weight': 'cond_proj.weight', 'project.bias': 'cond_proj.bias'}
BLOCK = {'.attn.qkv.': '.encoder.self_attn.in_proj_', '.attn.proj.': '.encoder.self_attn.out_proj.', '.inp.': '.encoder.linear1.', '.out.': '.encoder.linear2.', '.norm1.': '.encoder.norm1.', '.norm2.': '.encoder.norm2.'}


def released_key_map(cfg):
    "Our parameter name -> the released one. Shapes are equal, but for the positions: (N, W) here, (1, N, W) there; `blocks.i.mask` has no counterpart."
    with torch.device('meta'): names = [n for n, _ in CLIPGen(cfg).named_parameters()]
    def there(n):
        if n in HEAD: return HEAD[n]
        if n.startswith('blocks.'):
            for a, b in BLOCK.items():
                if a in n: return n.replace(a, b)
        return n
    return {n: there(n) for n in names}


def check_keys(file):
    d = json.load(open(file))
    keys = {k: tuple(v['shape']) for k, v in d['keys'].items() if v['kind'] == 'param'}
    cfg = CLIPGenConfig.preset('gpt2_medium')
    c = d['config']
    assert (cfg.K, cfg.depth, cfg.width, cfg.heads, cfg.grid, cfg.clip_dim, cfg.dropout) == (c['vocab_size'], c['n_layer'], c['n_embed'], c['n_head'], (16, 16), c['n_cond_embed'], c['dropout']) and c['block_size'] == 256
    with torch.device('meta'): ours = {n: tuple(p.shape) for n, p in CLIPGen(cfg).named_parameters()}
    m = released_key_map(cfg)
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
    cfg = CLIPGenConfig(grid=(4, h['block_size'] // 4), K=h['vocab_size'], width=h['n_embed'], depth=h['n_layer'], heads=h['n_head'], clip_dim=h['n_cond_embed'], dropout=h['dropout'], null=False)
    model, m = CLIPGen(cfg).eval(), released_key_map(cfg)
    model.load_state_dict({n: sd[m[n]].view_as(v) for n, v in model.state_dict().items()})
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


if __name__ == '__main__':
    ref = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / '../shared') / 'reference'
    check_keys(ref / 'keys/keys_clipgen_gpt2_medium.json')
    check_network(ref / 'golden/clipgen_gpt_tiny.pt')
