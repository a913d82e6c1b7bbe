"""Compare `released` with recorded outputs of the authors' code.

    python .ci/checks/golden_released.py [shared folder, default ../shared]

Loads the recorded state dicts as a user loads a file, and prints the largest differences; exit status 1 when one is over its tolerance, 2 when the files are missing.
Their t counts from 0, ours from 1."""
import json, sys, tempfile
from pathlib import Path

import torch

from clip_vqdiffusion.denoiser import Denoiser, DenoiserConfig
from clip_vqdiffusion.released import (ReleaseCompat, denoiser_to_released, load_released, load_released_denoiser, load_released_tokenizer, released_prediction, released_guide, released_key_map,
                                       released_posterior, released_sample, released_truncate, save_released, tokenizer_config, tokenizer_key_map, tokenizer_to_released)
from clip_vqdiffusion.sampling import SCHEDULERS, guide, sample, truncate
from clip_vqdiffusion.tokenizer import TokenizerConfig

shared = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / '../shared')
golden, keys = shared / 'reference/golden', shared / 'reference/keys'
if not (golden / 'diffusion_T100.pt').exists(): print(f'{golden} is missing: nothing compared'); sys.exit(2)
failed = []


def check(name, ours, theirs, tol):
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
    same = ours == theirs  # also for infinities
    worst = torch.where(same, 0, (ours - theirs).abs()).max().item()
    print(f"{name:70s}{worst:9.1e}  (allowed {tol:.0e}){'' if worst <= tol else '  FAILED'}")
    if not worst <= tol: failed.append(name)


def last(x): return x.movedim(-2, -1)  # (.., C, L) -> (.., L, C)


# --- names and sizes of the full-size files
shapes = {n: {k: v for k, v in json.load(open(keys / f'keys_{n}.json'))['keys'].items()} for n in ('ffhq_finetune', 'ffhq_base_train', 'gumbelvq_f16_4096')}
ours = set(released_key_map(DenoiserConfig.preset('ffhq')).values())
for name, missing in (('ffhq_finetune', set()), ('ffhq_base_train', {'empty_text_embed'})):
    params = {k for k, v in shapes[name].items() if v['kind'] == 'param'}
    check(f'{name}: names not shared', len(ours ^ params ^ missing), 0, 0)
with torch.device('meta'): theirs = {k: torch.empty(v['shape']) for k, v in shapes['gumbelvq_f16_4096'].items()}
check('gumbelvq_f16_4096: names not shared', len((set(tokenizer_key_map(TokenizerConfig()).values()) | {'quantize.proj.weight', 'quantize.proj.bias'}) ^ set(theirs)), 0, 0)
check('gumbelvq_f16_4096: sizes are the preset', tokenizer_config(theirs) == TokenizerConfig(), True, 0)

# --- the denoiser
g = torch.load(golden / 'diffusion_T100.pt', weights_only=True)
heads, inputs = g['hparams']['transformer_config']['params']['n_head'], g['inputs']
with tempfile.TemporaryDirectory() as d:
    torch.save(g['state_dict'], f'{d}/clipvq.pt')
    pipe = load_released(f'{d}/clipvq.pt', clip=None, heads=heads)
    assert not isinstance(pipe, ReleaseCompat) and pipe.denoiser.cfg.schedule == 'released', pipe.denoiser.cfg.schedule
    den = pipe.denoiser
    with torch.no_grad():
        check('logits', last(g['transformer']['logits']), den(inputs['x_t'], inputs['t_mix'] + 1, inputs['cond']), 2e-5)
        check('logits, all masks', last(g['transformer']['logits_x_all_mask']), den(inputs['x_all_mask'], inputs['t_mix'] + 1, inputs['cond']), 2e-5)
        outer = {'model': {f'transformer.{k}': v for k, v in g['state_dict'].items()}, 'ema': {}}
        check('logits, float64, from a training checkpoint', last(g['transformer']['logits_f64']), load_released_denoiser(outer, heads).double()(inputs['x_t'], inputs['t_mix'] + 1, inputs['cond'].double()), 1e-12)

    # --- back into the release's format
    save_released(den, f'{d}/back.pt', unit_null=False)
    back = torch.load(f'{d}/back.pt', weights_only=True)
check('saved: names not shared', len(set(back) ^ set(g['state_dict'])), 0, 0)
check('saved: weights', max((back[k] - v).abs().max() for k, v in g['state_dict'].items() if 'transformer' in k or 'empty' in k), 0, 0)
for k in g['state_dict']:
    if k.startswith('log_'): check(f'saved: {k}', back[k], g['state_dict'][k], 2e-6)

# --- the release's arithmetic: logarithms
K, mr, null = den.K, den.diffusion, den.null_embedding.detach()
with torch.no_grad():
    x, c, t = inputs['x_t'], inputs['cond'], g['cfg']['t'] + 1
    logit = lambda c: den(x, t, c)
    log_c, raw, unit = released_prediction(logit(c)), released_prediction(logit(null.expand_as(c))), released_prediction(logit(den.null(len(c))))
check('belief (log)', log_c, last(g['predict_start']), 2e-5)
for kind, log_0 in (('raw', raw), ('normalised', unit)):
    check(f'belief without prompt, {kind} (log)', log_0, last(g['cfg'][f'uncond_log_x_recon_{kind}']), 2e-5)
    for scale in (1.15, 3.0):
        made, theirs = released_guide(log_0, log_c, scale), last(g['cfg'][f'{kind}_scale{scale}'])
        check(f'guidance {scale}, {kind}, compat (log)', made, theirs, 5e-5)
        check(f'guidance {scale}, {kind}, default (probability)', guide(log_0[..., :K], log_c[..., :K], scale).exp(), theirs[..., :K].exp(), 5e-6)
        made, theirs = released_truncate(theirs, 0.85), last(g['cfg'][f'{kind}_scale{scale}_top0.85r'])
        check(f'  truncated to 0.85, compat (log)', made, theirs, 0)
print(f"  for comparison, raw and normalised null embedding at scale 3: log-probabilities differ by up to {(released_guide(raw, log_c, 3.0) - released_guide(unit, log_c, 3.0)).abs().max():.2f}")
check('truncation 0.5, compat (log)', released_truncate(last(g['truncation']['input']), 0.5), last(g['truncation']['top0.5r']), 0)
beliefs = {'onehot_x0': last(g['log_onehot_x0']), 'predict_start': last(g['predict_start']), 'rand': last(inputs['rand_log_x_start']), 'predict_start_trunc0.85': last(g['truncation']['top0.85r'])}
states = {'x_t': inputs['x_t'], 'x_all_mask': inputs['x_all_mask'], 'x0_as_x_t': inputs['x0']}
for key, theirs in g['q_posterior'].items():
    if key.count('|') != 1: continue
    b, s = key.split('|')
    made = torch.stack([released_posterior(mr, beliefs[b], states[s], int(t), int(t) + 1) for t in g['t_list']])
    check(f'posterior {key}, compat (probability)', made.exp(), last(theirs).exp(), 5e-6)
    if 'trunc' in b or 'onehot' in b: continue
    p = beliefs[b][..., :K].exp()
    made = torch.stack([mr.q_posterior(states[s], p / p.sum(-1, keepdim=True), int(t), int(t) + 1) for t in g['t_list']])
    check(f'posterior {key}, default (probability)', made, last(theirs).exp(), 5e-6)

# --- the bound and the auxiliary loss, as the (geometric mean) probability of a token that they stand for
for key in ('train_loss_uniform', 'train_loss_importance'):
    l = g[key]
    x_t, N = l['x_t'], l['x_t'].shape[1]
    _, vb, aux = mr.train_loss(last(l['log_x0_recon'])[..., :K], inputs['x0'], x_t, l['t'] + 1, l['pt'])
    for name, ours, theirs in (('bound', vb, l['kl_loss']), ('auxiliary loss', aux, l['kl_aux_loss'])):
        check(f'{key}: {name} (probability)', (-ours / N).exp(), (-theirs / N).exp(), 5e-6)
        print(f"{'':70s}{((ours - theirs) / N).abs().max():9.1e}  nats a token")

# --- the sampling chain, from the recorded noise, token for token
chain = g['chain']
noise = iter(chain['uniform'])
met = []
final = released_sample(den, chain['cond'], None, chain['scale'], chain['truncation_r'], uniform=lambda shape: next(noise), callback=lambda i, s, x, p: met.append(x))
check('chain, compat: tokens that differ, of all steps', (torch.stack(met) != chain['tokens']).sum(), 0, 0)
check('chain, compat: tokens that differ at the end', (final != chain['final']).sum(), 0, 0)
noise, met = iter(chain['uniform']), []


def gumbel(diffusion, xt, belief, now):
    "The exact posterior of the default path, drawn with their noise."
    return (diffusion.q_posterior(xt, belief.full(), now.s, now.t).float().log() - torch.log(-torch.log(last(next(noise)) + 1e-30) + 1e-30)).argmax(-1)


class Raw(Denoiser):
    def null(self, B=1): return self.null_embedding.expand(B, -1)


SCHEDULERS['gumbel'] = SCHEDULERS['ancestral']._replace(step=gumbel)
den.__class__ = Raw
sample(den, chain['cond'], None, chain['scale'], chain['truncation_r'], scheduler='gumbel', callback=lambda i, s, x, p: met.append(x))
den.__class__ = Denoiser
check('chain, default posterior, raw null embedding: tokens that differ', (torch.stack(met) != chain['tokens']).sum(), 0, 0)
noise, met = iter(chain['uniform']), []
sample(den, chain['cond'], None, chain['scale'], chain['truncation_r'], scheduler='gumbel', callback=lambda i, s, x, p: met.append(x))
print(f"  for comparison, with the null embedding on the sphere: {(torch.stack(met) != chain['tokens']).sum()} of {chain['tokens'].numel()} differ")

# --- the tokenizer
v = torch.load(golden / 'gumbelvq_tiny.pt', weights_only=True)
size = v['hparams']['ddconfig']['resolution']
with tempfile.TemporaryDirectory() as d:
    torch.save({'state_dict': v['state_dict'] | {'loss.discriminator.main.0.weight': torch.ones(2)}, 'epoch': 98}, f'{d}/vqgan.ckpt')
    tok = load_released_tokenizer(f'{d}/vqgan.ckpt', size)
    with torch.no_grad():
        check('tokenizer logits', tok.quantizer.logits(tok.encoder(v['x_pm1'])), v['logits'].flatten(2).mT, 2e-5)
        print(f"{'':70s}{(tok.quantizer.logits(tok.encoder(v['x_pm1'])) - v['logits_f64'].flatten(2).mT).abs().max():9.1e}  from their float64; theirs in float32: {(v['logits'] - v['logits_f64']).abs().max():.1e}")
    check('tokenizer codes that differ', (tok.encode(v['x_pm1']) != v['argmax_indices'].flatten(1)).sum(), 0, 0)
    check('tokenizer codes drawn with their noise that differ', ((tok.quantizer.logits(tok.encoder(v['x_pm1'])) + v['sampled']['gumbel'].flatten(2).mT).argmax(-1) != v['sampled']['tokens']).sum(), 0, 0)
    for kind in ('decode_argmax', 'decode_sampled'):
        r = v[kind]
        check(f'{kind}: pixels in [-1, 1]', tok.decode(r['tokens']), r['raw'].clamp(-1, 1), 2e-5)
        check(f'{kind}: pixels in 0..255', (tok.decode(r['tokens']) + 1) * 127.5, r['image_0_255'].clamp(0, 255), 2e-3)
    check('tokenizer in a training checkpoint: codes that differ', (load_released_tokenizer({'model': {f'content_codec.{k}': v['state_dict'][k.split('.', 1)[1]] for k in v['codec_keys']}}, size).encode(v['x_pm1'])
                                                                    != v['argmax_indices'].flatten(1)).sum(), 0, 0)
    save_released(tok, tokenizer=f'{d}/back.ckpt')
    back = load_released_tokenizer(f'{d}/back.ckpt', size)
check('tokenizer saved and loaded again: logits', back.quantizer.logits(back.encoder(v['x_pm1'])).detach(), tok.quantizer.logits(tok.encoder(v['x_pm1'])).detach(), 1e-5)
check('tokenizer saved: names not shared', len(set(tokenizer_to_released(tok)) ^ set(v['state_dict'])), 0, 0)

print('FAILED: ' + ', '.join(failed) if failed else 'all within tolerance')
sys.exit(bool(failed))
