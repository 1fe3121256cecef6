"""Single toys: the same on every machine, inside the unit sphere, described by their captions, splits apart."""

from __future__ import annotations

import numpy as np
import pytest

from gaussian4d.errors import UserError
from gaussian4d.toys import make_toy
from gaussian4d.toys.captions import VOCABULARY, says_something, tokens_of, unknown_words
from gaussian4d.toys.textures import COLORS


def _cloud(toy, time: float) -> np.ndarray:
    """Returns all vertices in the world."""
    parts = ((part.T_world_part(time), part.shape.vertices) for part in toy.world.parts)
    return np.concatenate([v @ T[:3, :3].T + T[:3, 3] for T, v in parts])


def test_a_toy_fills_the_unit_sphere_and_never_leaves_it():
    for seed in range(40):
        toy = make_toy(seed)
        reach = [np.linalg.norm(_cloud(toy, t), axis=1).max() for t in np.linspace(0, 1, 41)]
        # Between the times at which a toy was measured it may reach a little further.
        assert max(reach) < 1.02, seed
        assert max(reach) > 0.95, seed


def test_the_same_seed_is_the_same_toy_and_the_other_split_another():
    for seed in range(20):
        a, b, other = make_toy(seed), make_toy(seed), make_toy(seed, "test")
        assert a.caption == b.caption
        np.testing.assert_array_equal(_cloud(a, 0.3), _cloud(b, 0.3))
        clouds = _cloud(a, 0.3), _cloud(other, 0.3)
        assert clouds[0].shape != clouds[1].shape or not np.allclose(*clouds)


def test_motions_move_what_they_say():
    found: set[str] = set()
    for seed in range(150):
        toy = make_toy(seed)
        start = _cloud(toy, 0.0)
        moved = max(np.abs(_cloud(toy, t) - start).max() for t in (0.2, 0.45, 0.7))
        arms = " arms " in toy.caption
        if toy.motion == "standing" and not arms:
            assert moved == 0.0, toy.caption
        else:
            assert moved > 0.05, toy.caption
        found.add(toy.motion)
    assert found == {"spinning", "hopping", "wobbling", "swaying", "standing", "bending", "opening", "orbited"}


def test_captions_are_made_of_the_vocabulary_and_name_what_is_there():
    for seed in range(150):
        toy = make_toy(seed)
        assert unknown_words(toy.caption) == []
        words = [VOCABULARY[k] for k in tokens_of(toy.caption)]
        assert toy.color in words and toy.shape in words and toy.motion in words, toy.caption
        assert toy.color in COLORS
        assert len(words) <= 20, toy.caption


def test_synonyms_and_strange_words():
    assert tokens_of("A cube bouncing") == tokens_of("a box hopping")
    assert unknown_words("a photorealistic red dragon") == ["photorealistic", "dragon"]
    assert says_something("dragon in red") and not says_something("a dragon with it")


def test_impossible_seeds_and_splits_are_refused():
    with pytest.raises(UserError, match="seed"):
        make_toy(-1)
    with pytest.raises(UserError, match="split"):
        make_toy(1, "validation")  # type: ignore[arg-type]
