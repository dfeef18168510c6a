"""The network of ensemble_step.py in PyTorch, for its timing alone: `python ensemble_step_torch.py TASK_JSON`.

Layer for layer the VelocityNet of seisvel_jax/models without the resampling of grids: the same patches, blocks,
pooling, attention and decoder, so the same products. Channels-last convolutions, scaled_dot_product_attention, fused
AdamW: the fast forms of PyTorch. Prints JSON rows.
"""

# ruff: noqa: D101
import json
import math
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

POSITIONS = 24


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, queries, tokens):
        batch, count, width = queries.shape
        q = self.q(queries).view(batch, count, self.heads, -1).transpose(1, 2)
        k, v = self.kv(tokens).view(batch, tokens.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))


def mlp(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, outputs))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        part = channels // 4
        self.point = nn.Linear(part, part)
        self.kernels = nn.ModuleList([nn.Conv2d(part, part, size, padding=size // 2) for size in (3, 5, 7)])
        self.norm, self.mix = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, values):
        parts = values.chunk(4, -1)
        scales = [self.point(parts[0])]
        for kernel, part in zip(self.kernels, parts[1:]):
            scales.append(kernel(part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return values + self.mix(F.gelu(self.norm(torch.cat(scales, -1)), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.first, self.second = Attention(width, heads), Attention(width, heads)
        self.mlp = mlp(width, 4 * width, width)


class Net(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        width, heads, channels = sizes["width"], sizes["heads"], sizes["stem_channels"]
        self.length = round(sizes["patch_duration"] / 1e-3)
        self.patch = nn.Linear(2 * self.length, channels[0])
        self.patch_when, self.patch_where = nn.Linear(POSITIONS, channels[0]), nn.Linear(5 * POSITIONS, channels[0])
        self.first, self.second = Block(channels[0]), Block(channels[1])
        self.halve_norm, self.halve = nn.LayerNorm(channels[0]), nn.Linear(4 * channels[0], channels[1])
        self.pool_norm = nn.LayerNorm(channels[1])
        self.pool = nn.Linear(channels[1] * math.prod(sizes["moments"]), width)
        self.token_when, self.token_where = nn.Linear(POSITIONS, width), nn.Linear(5 * POSITIONS, width)
        self.encoder = nn.ModuleList([Layer(width, heads) for _ in range(sizes["encoder_layers"])])
        self.decoder = nn.ModuleList([Layer(width, heads) for _ in range(sizes["decoder_layers"])])
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.head = mlp(2 * POSITIONS, width, width), mlp(width, width, 4 * math.prod(sizes["patch_shape"]))

    def forward(self, gathers):
        batch, source, time_, receiver = gathers.shape
        count = -(-time_ // self.length)
        padded = F.pad(gathers, (0, 0, 0, count * self.length - time_)) / 0.0155
        patches = padded.view(batch * source, count, self.length, receiver).transpose(2, 3)
        patches = torch.cat([torch.asinh(gain * patches) / math.asinh(gain) for gain in (1.0, 50.0)], -1)
        place = self.patch_where(torch.ones(batch * source, 1, receiver, 5 * POSITIONS))
        values = self.first(self.patch(patches) + place + self.patch_when(torch.ones(1, count, 1, POSITIONS)))
        values = F.pad(self.halve_norm(values), (0, 0, 0, receiver % 2, 0, count % 2))
        high, wide, channels = values.shape[1] // 2, values.shape[2] // 2, values.shape[3]
        values = values.view(-1, high, 2, wide, 2, channels).transpose(2, 3).reshape(-1, high, wide, 4 * channels)
        values = self.second(self.halve(values))
        rows, columns = math.ceil(time_ * 1e-3 / self.sizes["token_duration"]), self.sizes["receiver_tokens"]
        in_time, in_line = torch.ones(rows * 2, high), torch.ones(columns * 4, wide)
        pooled = torch.einsum("bthc,mt,nh->bmnc", self.pool_norm(values), in_time, in_line)
        pooled = (
            pooled.view(batch * source, rows, 2, columns, 4, -1)
            .transpose(2, 3)
            .reshape(batch * source, rows, columns, -1)
        )
        place = self.token_where(torch.ones(batch * source, 1, columns, 5 * POSITIONS))
        tokens = self.pool(pooled) + place + self.token_when(torch.ones(1, rows, 1, POSITIONS))
        width, count = tokens.shape[-1], rows * columns
        tokens = tokens.view(batch, source, count, width)
        for layer in self.encoder:
            shots = layer.norms[0](tokens).view(batch * source, count, width)
            tokens = tokens + layer.first(shots, shots).view(tokens.shape)
            across = layer.norms[1](tokens).transpose(1, 2).reshape(batch * count, source, width)
            across = layer.second(across, across).view(batch, count, source, width)
            tokens = tokens + across.transpose(1, 2)
            tokens = tokens + layer.mlp(layer.norms[2](tokens))
        tokens = self.encoder_norm(tokens).view(batch, -1, width)
        high, wide = self.sizes["patch_shape"]
        down, right = -(-252 // high), -(-60 // wide)
        queries = self.query(torch.ones(down * right, 2 * POSITIONS)).expand(batch, -1, -1)
        for layer in self.decoder:
            normed = layer.norms[0](queries)
            queries = queries + layer.first(normed, normed)
            queries = queries + layer.second(layer.norms[1](queries), tokens)
            queries = queries + layer.mlp(layer.norms[2](queries))
        pixels = self.head(self.decoder_norm(queries)).view(batch, down, right, 2 * high, 2 * wide)
        window = tent(2 * high)[:, None] * tent(2 * wide)
        pixels = overlap_add(pixels * window) / overlap_add(window.expand(1, *pixels.shape[1:]))
        return 1500 + 3000 * torch.sigmoid(pixels[:, :252, :60])


def tent(length):
    return 1 - ((torch.arange(length) + 0.5) * (2 / length) - 1).abs()


def overlap_add(patches):
    batch, down, right, high, wide = *patches.shape[:3], patches.shape[3] // 2, patches.shape[4] // 2
    halves = patches.reshape(batch, down, right, 2, high, 2, wide)
    blocks = F.pad(halves[:, :, :, 0], (0, 0) * 4 + (0, 1)) + F.pad(halves[:, :, :, 1], (0, 0) * 4 + (1, 0))
    blocks = F.pad(blocks[..., 0, :], (0, 0) * 2 + (0, 1)) + F.pad(blocks[..., 1, :], (0, 0) * 2 + (1, 0))
    joined = blocks.transpose(2, 3).reshape(batch, (down + 1) * high, (right + 1) * wide)
    return joined[:, high // 2 : high // 2 + down * high, wide // 2 : wide // 2 + right * wide]


def main():
    task = json.loads(sys.argv[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    gathers, truth = 0.0155 * torch.randn(task["batch"], 5, 1001, 31), torch.full((task["batch"], 252, 60), 2500.0)
    rows = []
    for count in task["members"]:
        nets = [Net(task["sizes"]).to(memory_format=torch.channels_last) for _ in range(count)]
        optimizers = [torch.optim.AdamW(net.parameters(), 1e-3, fused=True) for net in nets]

        def step(nets=nets, optimizers=optimizers):
            for net, optimizer in zip(nets, optimizers):
                optimizer.zero_grad()
                ((net(gathers) - truth).abs() / truth).mean().backward()
                optimizer.step()

        for _ in range(2):
            step()
        walls, cpus = [], []
        for _ in range(task["repeats"]):
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            walls.append(1e3 * (time.perf_counter() - wall))
            cpus.append(1e3 * (time.process_time() - cpu))
        row = {"library": f"torch {torch.__version__}", "form": "member after member", "members": count}
        row |= {"wall_ms": round(statistics.median(walls), 1), "cpu_ms": round(statistics.median(cpus), 1)}
        row |= {"wall_min_ms": round(min(walls), 1), "wall_max_ms": round(max(walls), 1)}
        rows.append(row | {"parameters": sum(p.numel() for p in nets[0].parameters())})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
