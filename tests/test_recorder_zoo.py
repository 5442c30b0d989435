"""The recorder on timm, transformers and diffusers: tiny models of random weights, against the
libraries' own weights.

The three libraries are no dependency of the course: they are installed into an environment of their
own (or found in the one that COURSE_ZOO names), where this file runs as a script; the tests read
the report it prints.
"""

import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
TIMM = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit3_small_patch16_224": {"depth": 2},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96},
    "swin_tiny_patch4_window7_224": {"depths": (1, 2)},
    "xcit_nano_12_p16_224": {"depth": 2},
    "cait_xxs24_224": {"depth": 2},
}
TRANSFORMERS = ["Bert", "GPT2", "Llama", "ViT", "Swin", "T5", "Bart", "Whisper"]
DIFFUSERS = ["UNet", "PixArt", "HunyuanDiT", "Flux", "SD3", "Wan", "Sana"]


# --------------------------------------------------------------------------------------------------
# In the zoo's environment


def timm_models(name):
    """A model on its fused kernel, its input, and the same model written out, whose softmaxes are
    the reference.
    """
    import timm

    model = timm.create_model(name, **TIMM[name]).eval()
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    size = TIMM[name].get("img_size", 224)
    inputs = {"x": torch.randn(1, 3, size, size)}
    return [(model, inputs), (copy.deepcopy(twin), inputs)], lambda: softmaxes(twin, inputs)


def softmaxes(model, inputs):
    """Every softmax a model computes."""
    kept, original = [], torch.Tensor.softmax

    def keep(*args, **keywords):
        kept.append(original(*args, **keywords))
        return kept[-1]

    torch.Tensor.softmax = keep
    try:
        model(**inputs)
    finally:
        torch.Tensor.softmax = original
    return kept


def transformers_models(name):
    """A model on PyTorch's fused kernel and on its own eager code, which returns its weights."""
    import transformers

    text = {
        "input_ids": torch.randint(3, 99, (2, 7)),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
    }
    both = text | {"decoder_input_ids": torch.randint(3, 99, (2, 5))}
    image = {"pixel_values": torch.randn(2, 3, 32, 32)}
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    encoder_decoder = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "vocab_size": 99,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    options, inputs = {
        "Bert": (small | {"vocab_size": 99}, text),
        "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}, text),
        "Llama": (small | {"vocab_size": 99, "num_key_value_heads": 2}, text),
        "ViT": (small | {"image_size": 32, "patch_size": 8}, image),
        "Swin": (
            {
                "image_size": 32,
                "patch_size": 2,
                "embed_dim": 16,
                "depths": [1, 1],
                "num_heads": [2, 4],
                "window_size": 4,
            },
            image,
        ),  # it returns the last map of each stage only
        "T5": (
            {
                "vocab_size": 99,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 64,
                "num_layers": 2,
                "num_heads": 4,
            },
            both,
        ),
        "Bart": (encoder_decoder, both),
        "Whisper": (
            encoder_decoder | {"num_mel_bins": 8, "max_source_positions": 20},
            {
                "input_features": torch.randn(2, 8, 40),
                "decoder_input_ids": torch.randint(3, 99, (2, 5)),
            },
        ),
    }[name]
    config = getattr(transformers, f"{name}Config")(**options)
    models, family = [], getattr(transformers, f"{name}Model")
    for implementation in ("sdpa", "eager"):
        config._attn_implementation = implementation
        try:
            models.append(
                family._from_config(
                    copy.deepcopy(config), attn_implementation=implementation
                ).eval()
            )
        except ValueError:  # no fused kernel in this version of this model
            continue
    for model in models:
        model.load_state_dict(models[-1].state_dict())

    def reference():
        output = models[-1](**inputs, output_attentions=True)
        return [weights for key, maps in output.items() if "attentions" in key for weights in maps]

    return [(model, inputs) for model in models], reference


def diffusers_models(name):
    """A model whose kernel, for the reference, is replaced by the definition of attention."""
    import diffusers

    words, image = torch.randn(2, 8, 8), torch.randn(2, 4, 8, 8)
    family, options, inputs = {
        "UNet": (
            "UNet2DConditionModel",
            {
                "block_out_channels": (4, 8),
                "norm_num_groups": 4,
                "layers_per_block": 1,
                "sample_size": 16,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "cross_attention_dim": 8,
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "attention_head_dim": 2,
            },
            {"sample": torch.randn(2, 4, 16, 16), "timestep": 10, "encoder_hidden_states": words},
        ),
        "PixArt": (
            "PixArtTransformer2DModel",
            {
                "sample_size": 8,
                "num_layers": 2,
                "attention_head_dim": 4,
                "num_attention_heads": 2,
                "in_channels": 4,
                "cross_attention_dim": 8,
                "caption_channels": None,
                "num_embeds_ada_norm": 8,
                "use_additional_conditions": False,
            },
            {
                "hidden_states": image,
                "timestep": torch.tensor([3, 4]),
                "encoder_hidden_states": words,
                "added_cond_kwargs": {"aspect_ratio": None, "resolution": None},
            },
        ),
        "HunyuanDiT": (
            "HunyuanDiT2DModel",
            {
                "sample_size": 16,
                "num_layers": 2,
                "patch_size": 2,
                "attention_head_dim": 8,
                "num_attention_heads": 3,
                "in_channels": 4,
                "cross_attention_dim": 32,
                "cross_attention_dim_t5": 32,
                "pooled_projection_dim": 16,
                "hidden_size": 24,
                "activation_fn": "gelu-approximate",
            },
            {
                "hidden_states": image,
                "timestep": torch.ones(2),
                "encoder_hidden_states": torch.randn(2, 77, 32),
                "text_embedding_mask": torch.ones(2, 77),
                "encoder_hidden_states_t5": torch.randn(2, 256, 32),
                "text_embedding_mask_t5": torch.ones(2, 256),
                "image_meta_size": torch.ones(2, 6),
                "style": torch.zeros(2, dtype=torch.long),
                "image_rotary_emb": [torch.ones(16, 8), torch.ones(16, 8)],
            },
        ),
        "Flux": (
            "FluxTransformer2DModel",
            {
                "in_channels": 4,
                "num_layers": 1,
                "num_single_layers": 1,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 8,
                "pooled_projection_dim": 8,
                "axes_dims_rope": (4, 4, 8),
            },
            {
                "hidden_states": torch.randn(2, 16, 4),
                "encoder_hidden_states": words,
                "timestep": torch.ones(2),
                "pooled_projections": torch.randn(2, 8),
                "img_ids": torch.randn(16, 3),
                "txt_ids": torch.randn(8, 3),
            },
        ),
        "SD3": (
            "SD3Transformer2DModel",
            {
                "sample_size": 8,
                "patch_size": 1,
                "in_channels": 4,
                "num_layers": 2,
                "attention_head_dim": 8,
                "num_attention_heads": 4,
                "caption_projection_dim": 32,
                "joint_attention_dim": 8,
                "pooled_projection_dim": 8,
                "out_channels": 4,
                "pos_embed_max_size": 16,
            },
            {
                "hidden_states": image,
                "encoder_hidden_states": words,
                "pooled_projections": torch.randn(2, 8),
                "timestep": torch.tensor([3, 4]),
            },
        ),
        "Wan": (
            "WanTransformer3DModel",
            {
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "in_channels": 4,
                "out_channels": 4,
                "text_dim": 8,
                "ffn_dim": 32,
                "num_layers": 2,
                "rope_max_seq_len": 32,
            },
            {
                "hidden_states": torch.randn(2, 4, 2, 8, 8),
                "timestep": torch.tensor([3, 4]),
                "encoder_hidden_states": words,
            },
        ),
        "Sana": (
            "SanaTransformer2DModel",
            {
                "in_channels": 4,
                "out_channels": 4,
                "num_layers": 2,
                "attention_head_dim": 4,
                "num_attention_heads": 2,
                "num_cross_attention_heads": 2,
                "cross_attention_head_dim": 4,
                "cross_attention_dim": 8,
                "caption_channels": 8,
                "sample_size": 8,
                "patch_size": 1,
            },
            {
                "hidden_states": image,
                "timestep": torch.tensor([3, 4]),
                "encoder_hidden_states": words,
            },
        ),
    }[name]
    model = getattr(diffusers, family)(**options).eval()

    def reference():
        kept, original = [], F.scaled_dot_product_attention

        def define(
            query,
            key,
            value,
            attn_mask=None,
            dropout_p=0.0,
            is_causal=False,
            scale=None,
            **_options,
        ):
            assert not is_causal
            scores = (
                query.double()
                @ key.double().mT
                * (query.shape[-1] ** -0.5 if scale is None else scale)
            )
            if attn_mask is not None:
                scores = (
                    scores.masked_fill(~attn_mask, -torch.inf)
                    if attn_mask.dtype == torch.bool
                    else scores + attn_mask
                )
            kept.append(scores.softmax(-1))
            return (kept[-1] @ value.double()).to(query)

        F.scaled_dot_product_attention = define
        try:
            model(**inputs)
        finally:
            F.scaled_dot_product_attention = original
        return kept

    return [(model, inputs)], reference


def report(library, name):
    """Record each variant of a model; say what was captured, how far off, and what it did to the
    output.
    """
    from course_lib.recorder import AttentionRecorder

    torch.manual_seed(0)
    variants, reference = globals()[f"{library}_models"](name)
    with torch.no_grad():
        expected = [weights.flatten(0, -4).double() for weights in reference()]
    found = []
    for model, inputs in variants:
        for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with context(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                unseen = torch.utils._pytree.tree_leaves(tuple_of(model(**inputs)))
                with AttentionRecorder(model) as recording:
                    seen = torch.utils._pytree.tree_leaves(tuple_of(model(**inputs)))
            missing, error = list(recording.records), 0.0
            for weights in expected:
                distances = [
                    (
                        float((record.weights - weights).abs().max())
                        if record.weights.shape == weights.shape
                        else 9.0
                    )
                    for record in missing
                ]
                if distances:
                    error = max(error, min(distances))
                    missing.pop(distances.index(min(distances)))
            changed = max(
                float((a.detach() - b.detach()).abs().max())
                for a, b in zip(seen, unseen, strict=True)
                if isinstance(a, torch.Tensor)
            )
            found.append(
                {
                    "captured": len(recording.records),
                    "expected": len(expected),
                    "error": error,
                    "changed": changed,
                    "kinds": [record.kind for record in recording.records],
                    "named": all(record.name for record in recording.records),
                    "residual": max((record.residual or 0) for record in recording.records),
                    "gaps": [str(gap) for gap in recording.coverage()],
                }
            )
    return found


def pipeline_of(name):
    """A diffusers pipeline with a tiny random model, and that model; words come as embeddings, so
    nobody reads them.
    """
    import diffusers

    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(4,),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=4,
    )
    ((model, _),) = diffusers_models(name)[0]
    words = {"prompt_embeds": torch.randn(1, 8, 8), "negative_prompt_embeds": torch.randn(1, 8, 8)}
    if name == "UNet":
        pipeline = diffusers.StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=None,
            tokenizer=None,
            unet=model,
            scheduler=diffusers.DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        options = words | {"height": 16, "width": 16}
    else:
        pipeline = diffusers.PixArtAlphaPipeline(
            vae=autoencoder,
            text_encoder=None,
            tokenizer=None,
            transformer=model,
            scheduler=diffusers.DDIMScheduler(),
        )
        seen = torch.ones(1, 8)
        options = words | {
            "height": 8,
            "width": 8,
            "negative_prompt": None,
            "prompt_attention_mask": seen,
            "negative_prompt_attention_mask": seen,
            "use_resolution_binning": False,
        }
    pipeline.set_progress_bar_config(disable=True)
    return functools.partial(pipeline, **options), model


def watch(name, steps=3):
    """Watch a pipeline at work with `visualize_during_inference`: what came back, and which
    pictures there are.
    """
    from course_lib.recorder import visualize_during_inference

    torch.manual_seed(0)
    pipeline, model = pipeline_of(name)
    with tempfile.TemporaryDirectory() as folder:
        sequence = visualize_during_inference(
            pipeline, model, None, folder, num_inference_steps=steps
        )
        pictures = sorted(path.name for path in Path(folder).iterdir())
    worst = max(
        float((weights.sum(-1) - 1).abs().max()) for step in sequence for weights in step.values()
    )
    return {
        "steps": len(sequence),
        "layers": [len(step) for step in sequence],
        "pictures": pictures,
        "worst": worst,
        "expected": sum(type(module).__name__ == "Attention" for module in model.modules()),
    }


def tuple_of(output):
    return output.to_tuple() if hasattr(output, "to_tuple") else output


def main(library, *names):
    for name in names:
        try:
            found = watch(name) if library == "pipelines" else report(library, name)
            print(json.dumps({"name": name, "found": found}), flush=True)
        except Exception as error:
            print(
                json.dumps({"name": name, "failed": f"{type(error).__name__}: {error}"}), flush=True
            )


# --------------------------------------------------------------------------------------------------
# The tests


@pytest.fixture(scope="module")
def zoo_python(tmp_path_factory):
    """The Python of an environment that has the three libraries over the course's own packages."""
    if given := os.environ.get("COURSE_ZOO"):
        return Path(given) / "bin" / "python"
    folder = tmp_path_factory.mktemp("zoo")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "course.pth").write_text(str(Path(torch.__file__).parent.parent))
    python = folder / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "timm", "transformers", "diffusers", "ftfy"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if installed.returncode:
        pytest.skip(
            "timm, transformers and diffusers cannot be installed here:"
            f" {installed.stderr.strip()[-200:]}"
        )
    return python


@pytest.fixture(scope="module")
def reports(zoo_python):
    found = {}

    def of(library, names):
        if library not in found:
            run = subprocess.run(
                [zoo_python, __file__, library, *names],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
                timeout=1500,
                check=False,
            )
            lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
            found[library] = {line["name"]: line for line in lines} | {"stderr": run.stderr[-800:]}
        return found[library]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"),
    [
        (library, name)
        for library, names in {
            "timm": TIMM,
            "transformers": TRANSFORMERS,
            "diffusers": DIFFUSERS,
        }.items()
        for name in names
    ],
)
def test_the_wider_zoo(library, name, reports):
    told = reports(
        library, {"timm": list(TIMM), "transformers": TRANSFORMERS, "diffusers": DIFFUSERS}[library]
    )
    assert name in told, told["stderr"]
    assert "failed" not in told[name], told[name]["failed"]
    for found in told[name]["found"]:
        assert found["captured"] == found["expected"] > 0
        assert found["error"] < 1e-6
        assert found["changed"] == 0
        assert found["residual"] < 1e-5
        assert found["named"]
        if name == "Sana":  # half of its attention is linear: no softmax, but a word
            assert sum("attn1" in gap and "no softmax" in gap for gap in found["gaps"]) == 2
        else:
            assert not any("gave no weights" in gap for gap in found["gaps"])
        if name in ("T5", "Bart", "Whisper", "UNet", "PixArt", "HunyuanDiT", "Wan"):
            assert set(found["kinds"]) == {"self", "cross"}
        elif name != "Sana":
            assert set(found["kinds"]) == {"self"}


if __name__ == "__main__":
    main(*sys.argv[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UNet", "PixArt"])
def test_a_diffusers_pipeline_is_watched_step_by_step(name, reports):
    told = reports("pipelines", ["UNet", "PixArt"])
    assert name in told, told["stderr"]
    assert "failed" not in told[name], told[name]["failed"]
    found = told[name]["found"]
    assert found["steps"] == 3
    assert found["layers"] == [found["expected"]] * 3
    assert len(found["pictures"]) == 3 * found["expected"]
    assert found["worst"] < 1e-4
