"""Push a model's folder to the Hugging Face Hub, with its model card.

Everything in the folder is uploaded (weights, tokenizer, vocabulary, split, scores, evaluations, baselines), but
training checkpoints and hidden files. What you wrote in the card, here or on the Hub, is kept. A gene table's folder is
pushed in the same way.

examples:
  hf auth login
  state-hf push my-model someone/my-model --private
"""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf push`."""
    parser.add_argument("folder", type=Path, help="folder of a saved model or gene table")
    parser.add_argument("repository", help="id on the Hub; it is made where it is missing")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", metavar="R", help="branch to push to (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument("--token", help="access token (default: the stored one, or HF_TOKEN)")


def run(arguments: argparse.Namespace) -> None:
    """Push, and say where to look."""
    from state_hf.model_cards.pushing import push_folder

    pushed = push_folder(
        arguments.folder,
        arguments.repository,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
        token=arguments.token,
    )
    print(f"Pushed {arguments.folder} to {pushed.pr_url or pushed.commit_url}")
