"""The demo's data: scikit-learn's breast cancer patients, shared out among three hospitals."""

from __future__ import annotations

from pathlib import Path

#: Node -> its part of the patients: each saw other ones.
SITES = {"hospital-north": slice(0, 120), "hospital-south": slice(120, 360), "hospital-west": slice(360, None)}
COLUMNS = ["mean radius", "mean texture", "mean smoothness", "mean concavity", "malignant"]


def share_out(folder: Path) -> dict[str, dict[str, Path]]:
    """Write each site's part to `folder`: node -> dataset name -> folder."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    patients = data.data.assign(malignant=1 - data.target)[COLUMNS]
    datasets = {}
    for node, part in SITES.items():
        datasets[node] = {"patients": folder / node / "patients"}
        datasets[node]["patients"].mkdir(parents=True)
        patients.iloc[part].to_csv(datasets[node]["patients"] / "patients.csv", index=False)
        # A container's user is not this one.
        for path in (folder, folder / node, datasets[node]["patients"]):
            path.chmod(0o755)
    return datasets
