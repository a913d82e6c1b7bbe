#!/usr/bin/env python
"""Compare `diffusion` and the belief transforms of `sampling` with recorded outputs of the release.

    python .ci/checks/golden_diffusion.py [shared folder, default ../shared]

The files lie in its reference/golden, on the development machine only. The release counts t from 0, we from 1.
Prints the largest differences; exit status 1 when one is over its tolerance, 2 when the files are missing."""
import sys
from pathlib import Path
root = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root))
import torch
from clip_vqdiffusion.corruption import MaskAndReplace
from clip_vqdiffusion.diffusion import TimestepSampler
from clip_vqdiffusion.sampling import guide, truncate

golden = Path(sys.argv[1] if len(sys.argv) > 1 else root.parent/'shared')/'reference/golden'
if not (golden/'diffusion_T100.pt').exists(): print(f'{golden} is missing: nothing compared'); sys.exit(2)
d = torch.load(golden/'diffusion_T100.pt', weights_only=True)
schedules = torch.load(golden/'schedules.pt', weights_only=True)
failed = []

def check(name, ours, theirs, tol=5e-6, relative=False):
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
    diff = (ours - theirs).abs()
    if relative: diff = diff / theirs.abs().clamp(min=1e-12)
    worst = diff.max().item()
    print(f"{name:52s} {'relative' if relative else 'absolute':9s}{worst:9.1e}  (allowed {tol:.0e}){'' if worst <= tol else '  FAILED'}")
    if not worst <= tol: failed.append(name)

def last(x): return x.exp().movedim(-2, -1) # (.., C, L) log -> (.., L, C) probabilities
def normal(x): return x / x.sum(-1, keepdim=True)

# schedules: their cumulative index T is "t = -1"
for name, g in schedules.items():
    if not isinstance(g, dict): continue
    mr, f = MaskAndReplace(g['T'], g['N']), g['f64']
    for ours, key in (mr.alpha_bar, 'att'), (mr.beta_bar, 'btt'), (mr.gamma_bar, 'ctt'):
        check(f'{name} {key}', ours, torch.cat([f[key][-1:], f[key][:-1]]), 1e-14)
    a, b, c = (x.flatten() for x in mr.between(torch.arange(g['T']), torch.arange(1, g['T'] + 1)))
    for ours, key in (a, 'at'), (b, 'bt'), (c, 'ct'): check(f'{name} {key}', ours, f[key], 1e-12)

mr = MaskAndReplace(d['T'], 32)
x0, xt, xm = (d['inputs'][k] for k in ('x0', 'x_t', 'x_all_mask'))
ts = d['t_list']
check('q_xt_x0', torch.stack([mr.q_xt_x0(x0, t.item() + 1) for t in ts]), last(d['q_pred']['log_onehot_x0']))
check('q_xt_x0, t=0', mr.q_xt_x0(x0, 0), last(d['q_pred']['log_onehot_x0_t_minus1']))

beliefs = dict(onehot_x0=x0, predict_start=normal(last(d['predict_start'])[..., :32]), rand=normal(last(d['inputs']['rand_log_x_start'])[..., :32]))
truncated = truncate(beliefs['predict_start'], 0.85)
beliefs['predict_start_trunc0.85'] = truncated
states = dict(x_t=xt, x_all_mask=xm, x0_as_x_t=x0)
for key, theirs in d['q_posterior'].items():
    parts = key.split('|')
    if len(parts) != 2: continue
    theirs, x = last(theirs), states[parts[1]]
    ours = torch.stack([mr.q_posterior(x, beliefs[parts[0]], t.item(), t.item() + 1) for t in ts])
    check(f'q_posterior {key}', ours, normal(theirs) if 'trunc' in key else theirs)
mix = d['cfg']['t']
check('q_posterior, one t an image', mr.q_posterior(xt, beliefs['predict_start'], mix, mix + 1), last(d['q_posterior']['predict_start|x_t|t_mix']))

check('truncation 0.85', truncated, normal(last(d['truncation']['top0.85r'])[..., :32]))
kept = d['truncation']['kept_top0.85r'].movedim(-2, -1)[..., :32]
check('truncation 0.85, what is kept', truncated > 0, kept, 0)
check('truncation 0.5', truncate(beliefs['predict_start'], .5), normal(last(d['truncation']['top0.5r'])[..., :32]))

cfg, logp_c = d['cfg'], d['cfg']['raw_scale1.0'].movedim(-2, -1)[..., :32]
for kind in 'raw', 'normalised':
    for scale in 1.15, 3.0:
        p = guide(cfg[f'uncond_log_x_recon_{kind}'].movedim(-2, -1)[..., :32], logp_c, scale).exp()
        check(f'guidance {kind} {scale}', p, last(cfg[f'{kind}_scale{scale}'])[..., :32])
        check(f'guidance {kind} {scale}, truncated', truncate(p, .85), normal(last(cfg[f'{kind}_scale{scale}_top0.85r'])[..., :32]))

for key in 'train_loss_uniform', 'train_loss_importance':
    g = d[key]
    t, logits = g['t'] + 1, g['log_x0_recon'].movedim(-2, -1)[..., :32]
    loss, vb, aux = mr.train_loss(logits, x0, g['x_t'], t, g['pt'])
    check(f'{key} kl', vb, g['kl_loss'], 1e-4, True)
    check(f'{key} aux', aux, g['kl_aux_loss'], 1e-5, True)
    check(f'{key} loss', loss, g['loss_scalar'], 1e-5, True)
    if key == 'train_loss_uniform':
        sampler = TimestepSampler(100)
        sampler.update(t, vb)
        check(f'{key} history', sampler.history[1:], g['Lt_history_after'], 1e-4 * g['Lt_history_after'].max().item())
g, sampler = d['importance'], TimestepSampler(100)
sampler.history[1:] = g['Lt_history']
sampler.count += g['min_count_to_switch']
check('importance p(t)', sampler.probabilities()[1:], g['pt_all'], 1e-8)
torch.manual_seed(g['seed'])
t, pt = sampler(len(g['t']))
check('importance t', t - 1, g['t'], 0)
check('importance p(t) drawn', pt, g['pt'], 1e-8)
print('FAILED: ' + ', '.join(failed) if failed else 'all within tolerance')
sys.exit(bool(failed))
