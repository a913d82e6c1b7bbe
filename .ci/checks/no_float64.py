"""Every way of drawing on a device that has no float64, as Apple's GPUs (MPS). No such device is needed:
the two functions that choose a precision by device are told to choose that one's, and an operation that makes a float64 is refused."""
import os, sys
os.environ['HF_HUB_OFFLINE'] = '1'
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
import clip_vqdiffusion.editing, clip_vqdiffusion.numerics as numerics
from clip_vqdiffusion.pipeline import CLIPVQDiffusion
from clip_vqdiffusion.sampling import GUIDANCE, SCHEDULERS


brought = {}                                             # tensors that were brought to the CPU, where there is a float64
def cpu(self, *args, **kw):
    out = self.clone()
    brought[id(out)] = out                               # kept, so that the number stays its own
    return out
torch.Tensor.cpu = cpu


class No64(TorchDispatchMode):
    "What MPS says of float64, said on a CPU; what comes from a tensor that was brought there by `.cpu()` may have it."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_iter((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        if any(id(x) in brought or x.dtype == torch.float64 for x in given): return out
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor) and x.dtype == torch.float64: raise TypeError(f"{func} makes a float64, which MPS does not have")
        return out


class As:
    "A tensor's stand-in that says it is on MPS; whatever is made for it comes to the CPU."
    class device(str): type = 'mps'
    device = device('cpu')


def as_on_mps():
    "`_rand` and `_inverse_cdf` choose float32 by the device's type: give them that type."
    rand, real, mps = numerics._rand, torch.cumsum, []
    def rand32(shape, like, generator=None, dtype=None): return rand(shape, As, generator if generator is not None else torch.default_generator)
    def inverse32(p, u):
        cdf = p.cumsum(-1, dtype=torch.float32)
        last = cdf[..., -1]
        level = torch.minimum(u.to(cdf.dtype) * last, torch.nextafter(last, torch.zeros_like(last)))
        return torch.searchsorted(cdf, level[..., None], right=True)[..., 0].clamp(max=p.shape[-1] - 1)
    for name, module in list(sys.modules.items()):
        if name.startswith('clip_vqdiffusion.'):
            for attribute, new in (('_rand', rand32), ('_inverse_cdf', inverse32)):
                if hasattr(module, attribute): setattr(module, attribute, new)


def buffers32(pipe):
    for m in pipe.denoiser.modules():
        for name, b in m.named_buffers(recurse=False):
            if b.dtype == torch.float64: setattr(m, name, b.float())
    return pipe


def main():
    as_on_mps()
    pipe, writer = buffers32(CLIPVQDiffusion.from_pretrained('avatars')), buffers32(CLIPVQDiffusion.from_pretrained('avatars/clip_gen'))
    face = pipe('a sad person', num_inference_steps=2).images[0]
    g = lambda: torch.Generator().manual_seed(0)
    calls = {f'scheduler {s}': (lambda s=s: pipe('a sad person', 2, 4, generator=g(), scheduler=s)) for s in SCHEDULERS}
    calls |= {f'guidance {s}': (lambda s=s: pipe('a sad person', 2, 4, generator=g(), guidance_schedule=s)) for s in GUIDANCE}
    calls |= {'condition noise': lambda: pipe('a sad person', num_inference_steps=2, condition_noise=.5), 'rerank': lambda: pipe('a sad person', num_inference_steps=2, rerank=2),
              'CLIP-GEN': lambda: writer('a sad person', generator=g()), 'vary': lambda: pipe.vary(face, num_images=1), 'inpaint': lambda: pipe.inpaint(face, 'upper', 'a hat'),
              'interpolate': lambda: pipe.interpolate('a hat', face, 3), 'edit': lambda: pipe.edit(face, 'a person', 'a person with a hat')}
    bad = 0
    for name, call in calls.items():
        try:
            with No64(): call()
        except TypeError as e: bad += 1; print(f'{name}: {e}')
        else: print(f'{name}: ok')
    try:
        with No64(): torch.ones(2).double()
    except TypeError: pass
    else: bad += 1; print('a float64 was not noticed')
    return bad


if __name__ == '__main__': sys.exit(main())
