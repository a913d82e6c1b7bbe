"""Parity of `Denoiser` with the authors' network.

    python .ci/checks/golden_denoiser.py [shared folder, default ../shared]

Not part of the package: it needs the reference files, which are not committed.
"""
import json, sys
from pathlib import Path

import torch

from clip_vqdiffusion.denoiser import Denoiser, DenoiserConfig
from clip_vqdiffusion.released import released_key_map


def check_keys(file, preset):
    keys = {k: tuple(v['shape']) for k, v in json.load(open(file))['keys'].items() if v['kind'] == 'param'}
    cfg = DenoiserConfig.preset(preset)
    with torch.device('meta'): ours = {n: tuple(p.shape) for n, p in Denoiser(cfg).named_parameters()}
    m = released_key_map(cfg)
    assert len(set(m.values())) == len(m)
    want = {m[n]: (1, *s) if n == 'null_embedding' else s for n, s in ours.items()}
    assert want == keys, sorted(set(want.items()) ^ set(keys.items()))[:6]
    print(f'{Path(file).name}: {len(keys)} tensors, every one with a counterpart of its shape')


def check_logits(file):
    g = torch.load(file, weights_only=True)
    p = g['hparams']['transformer_config']['params']
    cfg = DenoiserConfig.preset('ffhq', grid=tuple(p['content_spatial_size']), K=g['num_classes'] - 1, T=g['T'], width=p['n_embd'], depth=p['n_layer'], heads=p['n_head'], clip_dim=p['n_embd'])
    d = Denoiser(cfg).eval()
    m, sd = released_key_map(cfg), g['state_dict']
    d.load_state_dict({n: sd[m[n]].view_as(v) for n, v in d.state_dict().items()})
    x, t, c, ref = g['inputs']['x_t'], g['inputs']['t_mix'] + 1, g['inputs']['cond'], g['transformer']   # their t counts from 0
    with torch.no_grad():
        errors = dict(x_t=d(x, t, c).transpose(1, 2) - ref['logits'], all_mask=d(g['inputs']['x_all_mask'], t, c).transpose(1, 2) - ref['logits_x_all_mask'])
        unit = d(x, g['cfg']['t'] + 1, d.null(len(x))).transpose(1, 2).log_softmax(1)
        raw = d(x, g['cfg']['t'] + 1, d.null_embedding.expand(len(x), -1)).transpose(1, 2).log_softmax(1)
        errors['null, unit (their training)'] = unit - g['cfg']['uncond_log_x_recon_normalised'][:, :-1]
        errors['null, raw (their sampling)'] = raw - g['cfg']['uncond_log_x_recon_raw'][:, :-1]
        d64 = d.double()(x, t, c.double()).transpose(1, 2) - ref['logits_f64']
    for k, e in errors.items(): print(f'  {k}: largest difference {e.abs().max():.1e}'); assert e.abs().max() < 2e-5, k
    print(f'  float64: {d64.abs().max():.1e}'); assert d64.abs().max() < 1e-12


if __name__ == '__main__':
    ref = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / '../shared') / 'reference'
    check_keys(ref / 'keys/keys_ffhq_finetune.json', 'ffhq')
    check_logits(ref / 'golden/diffusion_T100.pt')
