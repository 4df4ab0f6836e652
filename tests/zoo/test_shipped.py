"""Every folder of the zoo: a true card, a configuration that builds, weights that load or are said to be missing."""

import json

import pytest
import torch

from snntorch_smixer import from_pretrained, list_models
from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, Card
from snntorch_smixer.cards.folder import check_file, tensor_shapes
from snntorch_smixer.cards.readme import README, model_readme
from snntorch_smixer.cli.counts import count, parameter_shapes
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.architectures import shapes_of
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.tables import read_toml
from snntorch_smixer.zoo.registry import configured, model_card, shipped, zoo_folder

ALLOWED = {README, CARD, CONFIG, WEIGHTS, "recipe.toml", "log.jsonl", "detector.yaml"}
LICENSES = {"MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "AGPL-3.0"}
TRAINS = ("smixer train ", "smixer detect train ", "python benchmarks/detect_coco128.py ")
MEASURES = ("smixer eval ", "smixer detect val ", "make demo")


def is_detector(name):
    return name.startswith("spike-yolo")


folders = pytest.mark.parametrize("name", configured())


def folder_of(name):
    return zoo_folder() / name


def test_the_zoo_has_models_with_and_without_weights():
    assert {"smixer-2-64-fmnist", "smixer-2-64-fmnist-dstsp"} <= set(shipped())
    assert sorted(path.name for path in zoo_folder().iterdir() if path.is_dir()) == configured()


@folders
def test_the_folder_holds_the_files_of_a_model_and_no_code(name):
    found = {path.name for path in folder_of(name).iterdir()}
    assert {CARD, CONFIG} <= found <= ALLOWED


@folders
def test_the_card_is_named_as_its_folder_and_says_what_matters(name):
    card = model_card(name)
    assert card.name == name
    assert card.summary.endswith(".")
    assert card.license in LICENSES
    assert card.paper
    assert card.dataset
    assert card.dataset_text
    assert card.trains.startswith(TRAINS)
    assert (card.license == "AGPL-3.0") == is_detector(name)  # ultralytics trained those
    assert card.repo_id.split("/")[1] == name
    channels = card.input_size[0]
    assert len(card.mean) == len(card.std)
    assert len(card.mean) in ({0, 2} if channels == 2 else {channels})  # event frames are counts, taken as they are
    assert all(0 < std < 1 or (std == 1 and is_detector(name)) for std in card.std)
    assert all(0 <= mean < 1 for mean in card.mean)


@folders
def test_the_card_agrees_with_the_configuration(name):
    card, blueprint = model_card(name), Blueprint.load(folder_of(name))
    blueprint.check_card(card, folder_of(name) / CONFIG)
    assert len(card.classes) in (0, blueprint.config.num_classes)


@folders
def test_the_configuration_builds_and_is_written_as_this_release_writes_it(name):
    blueprint = Blueprint.load(folder_of(name))
    shapes = shapes_of(blueprint.config)
    heads = ("head.weight", "head.linear.weight", "head.cv3.2.2.weight")
    assert [shape[0] for key, shape in shapes.items() if key.endswith(heads)] == [blueprint.config.num_classes]
    assert json.loads(blueprint.to_json()) == json.loads((folder_of(name) / CONFIG).read_text())


@folders
def test_every_file_that_the_card_names_is_the_one_that_is_there(name):
    card, folder = model_card(name), folder_of(name)
    assert CONFIG in card.files
    for file, record in card.files.items():
        if (folder / file).is_file():
            check_file(folder / file, record, owner=name)
    assert (folder / WEIGHTS).is_file() <= (WEIGHTS in card.files)


@folders
def test_results_of_ours_are_results_of_weights(name):
    card = model_card(name)
    assert not card.measured or WEIGHTS in card.files
    assert bool(card.measured) == (name in shipped() or card.is_published)
    for row in card.measured:
        assert 0 < row.value <= 1 or not row.metric.endswith("accuracy")
        assert row.command.startswith(MEASURES)
        assert "torch " in row.versions
        assert "snntorch " in row.versions
        assert row.samples > 0


@folders
def test_results_of_papers_name_their_table(name):
    for row in model_card(name).reported:
        assert any(word in row.source for word in ("table", "ablation", "figure"))
        assert row.unit
        assert row.value > 0


@folders
def test_the_recipe_is_toml(name):
    path = folder_of(name) / "recipe.toml"
    assert not path.exists() or read_toml(path)


@folders
def test_the_readme_is_what_the_card_renders(name):
    folder = folder_of(name)
    stale = f"{folder.name}/{README} is stale: run `smixer zoo cards`"
    assert (folder / README).read_text(encoding="utf-8") == model_readme(Card.load(folder)), stale


@folders
def test_the_card_counts_the_parameters(name):
    folder = folder_of(name)
    blueprint = Blueprint.load(folder)
    if blueprint.wrapped is not None:
        # 27.5 million: Q and K of seven blocks out, eight W_M of 196 x 196 each in; building it takes half a minute.
        dense = count(parameter_shapes(Blueprint(blueprint.config)))
        assert model_card(name).parameters == dense - 7 * (2 * 512**2 + 2 * 2 * 512) + 7 * 8 * 196**2
    else:
        assert model_card(name).parameters == count(parameter_shapes(blueprint, folder))


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_load_without_a_network(name, no_network):
    net, card = from_pretrained(name), model_card(name)
    assert net.card == card
    assert not net.training
    images = torch.randint(0, 256, (2, *card.input_size), dtype=torch.uint8)
    values = net.decoded(card.preprocess(images))[:, 4:, 0] if is_detector(name) else net(card.preprocess(images))
    assert values.shape == (2, net.config.num_classes)
    assert values.isfinite().all()
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == tensor_shapes(folder_of(name) / WEIGHTS)
    parameters = sum(p.numel() for p in net.parameters())
    assert f"| parameters | {parameters:,} |" in model_readme(card)
    assert parameters == card.parameters


@pytest.mark.parametrize("name", [name for name in configured() if name not in list_models(pretrained=True)])
def test_unpublished_weights_are_said_to_be_missing_before_the_network_is_used(name, no_network):
    with pytest.raises(CardError) as caught:
        from_pretrained(name)
    card = model_card(name)
    assert str(caught.value) == (
        f"from_pretrained: nobody has published weights of {name} yet. Its card, {folder_of(name) / CARD}, names no "
        f"pinned revision of {card.repo_id} and no SHA-256 of {WEIGHTS}. To train them: {card.trains}. To publish "
        f"them: smixer zoo push runs/{name} {card.repo_id}. create_model({name!r}) builds the network untrained."
    )
