"""What a user writes first. It runs, and pyright accepts it in strict mode: see user_types.py."""
from clip_vqdiffusion import CLIPVQDiffusion

pipe = CLIPVQDiffusion.from_pretrained("avatars")
drawn = pipe("an avatar of a smiling person", num_images_per_prompt=2, num_inference_steps=2)
files = drawn.save("drawn", "face")
variation = pipe.vary(drawn.images[0], strength=0.5, num_images=1).images[0]
hat = pipe.inpaint(variation, "upper", "a person with a crown").images[0]
hat.save("hat.png")
print([file.name for file in files], hat.size, pipe.interpolate("a sad person", hat, n=3).prompts)
