"""
Vision encoders of transformers for `--encoder` and `--reward paper` of reward.py. Nothing is loaded before it is asked
for.
"""
import numpy as np
from PIL import Image


def cosine(a, b):
    """Cosine similarity of two vectors [D], -1 to 1; 0 where one of them is 0."""
    return float(a @ b / max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b))))


def calibrated(similarity, of_blank):
    """A similarity of at most 1 and that of the empty sheet -> 0 to 1: 1 stays 1, the sheet's and all below turn 0."""
    return max(0.0, similarity - of_blank) / max(1e-6, 1 - of_blank) if similarity < 1 - 1e-9 else 1.0


def tile_grid(width, height, tile):
    """(columns, rows), at most 12 tiles, whose aspect comes closest to that of an image of width x height pixels.

    tile: pixels of a tile's side. On a tie the larger grid, if the image has more than half its pixels: InternVL's rule
    (find_closest_aspect_ratio in its model cards), which VinciCoder's reward uses.
    """
    best = (1, 1)
    for grid in sorted(((i, j) for i in range(1, 13) for j in range(1, 13) if i * j <= 12), key=lambda g: g[0] * g[1]):
        off, least = (abs(width / height - g[0] / g[1]) for g in (grid, best))
        if off < least or off == least and width * height > 0.5 * tile * tile * grid[0] * grid[1]:
            best = grid
    return best


def tiles_and_thumbnail(image, tile):
    """PIL image -> the square tiles of `tile` pixels of its grid and, where they are several, the thumbnail."""
    columns, rows = tile_grid(*image.size, tile)
    sheet = image.resize((columns * tile, rows * tile), Image.BICUBIC)
    corners = [(x * tile, y * tile) for y in range(rows) for x in range(columns)]
    found = [sheet.crop((x, y, x + tile, y + tile)) for x, y in corners]
    return found + [image.resize((tile, tile), Image.BICUBIC)] if len(found) > 1 else found


def load_vision(name):
    """-> (model, image processor) of transformers, by hub name or directory.

    Raises SystemExit with one line when they cannot be loaded.
    """
    from transformers import AutoImageProcessor, AutoModel
    try:
        model = AutoModel.from_pretrained(name).eval()
        return model, AutoImageProcessor.from_pretrained(name, backend="pil")  # the other backend needs torchvision
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: no vision encoder at {name!r}: {str(error).splitlines()[0]}") from None


class Encoder:
    """A vision encoder of transformers (DINOv2, CLIP, SigLIP, ...), by hub name or directory.

    Images go in as squares of `side` pixels, stretched. Raises SystemExit with one line when it cannot be loaded.
    """

    def __init__(self, name, side=448, device="cpu"):
        import torch
        self.torch, self.side, self.device = torch, side, device
        model, processor = load_vision(name)
        self.model = getattr(model, "vision_model", model).to(device)
        of_channels = lambda values: torch.tensor(values, dtype=torch.float32)[:, None, None]  # [3, 1, 1]
        self.mean, self.std = map(of_channels, (processor.image_mean, processor.image_std))

    def run(self, images):
        """n PIL images (RGB) -> the model's output for the batch [n, 3, side, side], all hidden states in it."""
        torch = self.torch
        squares = [np.array(image.resize((self.side, self.side), Image.BICUBIC)) for image in images]  # [side, side, 3]
        batch = [torch.from_numpy(square).permute(2, 0, 1) / 255 for square in squares]  # [3, side, side] each
        with torch.no_grad():
            pixels = torch.stack([(x - self.mean) / self.std for x in batch]).to(self.device)  # [n, 3, side, side]
            return self.model(pixel_values=pixels, output_hidden_states=True)

    def describe(self, arrays):
        """n images uint8 [H, W, 3] -> features, float32 array [n, 2 D]: first token and mean of the others, after the
        final norm."""
        tokens = self.run([Image.fromarray(np.ascontiguousarray(a)) for a in arrays]).last_hidden_state  # [n, T, D]
        return self.torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).float().cpu().numpy()

    def paper_similarity(self, target, image):
        """VinciCoder's visual reward of two images, uint8 [H, W, 3] and [h, w, 3] -> 0 to 1 (arXiv 2511.00391, 3.3).

        The render is stretched to the target's size, both are cut into tiles and a thumbnail, and (cos + 1) / 2 of the
        first tokens, before the final norm, is averaged.
        """
        target, image = Image.fromarray(target), Image.fromarray(image)
        stretched = image.resize(target.size, Image.BICUBIC)
        pieces = (tiles_and_thumbnail(picture, self.side) for picture in (target, stretched))
        a, b = (self.run(p).hidden_states[-1][:, 0].float().cpu().numpy() for p in pieces)  # [n, D] each
        return float(np.mean([(cosine(x, y) + 1) / 2 for x, y in zip(a, b)]))
