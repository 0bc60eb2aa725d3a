"""Upload an exported folder to the Hugging Face hub. The library reads HF_TOKEN, HF_ENDPOINT and HF_HOME."""

from __future__ import annotations

from pathlib import Path

from slm_model.errors import UserError


def push(folder: Path, repo: str) -> str:
    """The address of the commit. The repository is made, private, if there is none.

    Raises UserError if the hub is out of reach, refuses, or knows no token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    kept = f"{folder} is kept: upload it later with `hf upload {repo} {folder}`"
    try:
        if not api.repo_exists(repo):
            api.create_repo(repo, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload from slm-pipeline"))
    except HFValidationError as error:
        raise UserError(f"--push is {repo!r}: {str(error).splitlines()[0]}") from None
    except LocalTokenNotFoundError:
        raise UserError(f"no token of the hub is known: set HF_TOKEN, or run `hf auth login`; {kept}") from None
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"the hub did not take {repo} ({str(error).splitlines()[0]}); {kept}") from None
