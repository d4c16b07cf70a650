"""Evaluations: made, found, submitted to, scored, shared, deleted."""

import json
from pathlib import Path

from prelude import OLD, WORK, fails_with, login, unique, write
from synapseclient import Evaluation, File, Project

syn = login()
project = syn.store(Project(unique("Evaluations")))
file = syn.store(File(write("answer.txt", "forty-two\n"), parent=project))
name = unique("Challenge / 1")
made = syn.store(
    Evaluation(
        name=name,
        description="d",
        contentSource=project.id,
        submissionInstructionsMessage="send it",
        submissionReceiptMessage="thanks",
    )
)
again = json.dumps({"name": name, "contentSource": project.id})
fails_with(409, syn.restPOST, "/evaluation", again)
assert syn.getEvaluation(made.id).submissionReceiptMessage == "thanks"
assert syn.getEvaluationByName(name).id == made.id
assert [e.id for e in syn.getEvaluationByContentSource(project)] == [made.id]
made.description = "changed"
made = syn.store(made)
assert syn.getEvaluation(made.id).description == "changed"

sent = syn.submit(made, file, name="first", submitterAlias="us")
assert (sent.entityId, sent.versionNumber, sent.submitterAlias) == (file.id, 1, "us")
write("answer.txt", "forty-three\n")
newer = syn.store(File(str(WORK / "answer.txt"), parent=project))
assert newer.versionNumber == 2
# `file` holds the etag of before.
fails_with(412, syn.submit, made, file)
again = syn.submit(made, newer)

syn.cache.purge(after_date=0)
got = syn.getSubmission(sent.id, downloadLocation=str(WORK / "judge"))
assert Path(got.filePath).read_text() == "forty-two\n", got.filePath
assert [s.id for s in syn.getSubmissions(made)] == [sent.id, again.id]
assert [s.id for s in syn.getSubmissions(made, limit=1)] == [sent.id, again.id]
assert [s.id for s in syn.getSubmissions(made, myOwn=True)] == [sent.id, again.id]

status = syn.getSubmissionStatus(sent)
assert status.status == "RECEIVED"
stale = syn.getSubmissionStatus(sent)
status.status = "SCORED"
status.submissionAnnotations["score"] = [0.5]
status = syn.store(status)
assert syn.getSubmissionStatus(sent).submissionAnnotations["score"] == [0.5]
fails_with(412, syn.store, stale)
assert [s.id for s in syn.getSubmissions(made, status="SCORED")] == [sent.id]
[(one, its)] = syn.getSubmissionBundles(made, status="SCORED")
assert (one.name, its.status) == ("first", "SCORED")

syn.setPermissions(made, 273948, ["READ", "SUBMIT"])
assert set(syn.getPermissions(made, 273948)) == {"READ", "SUBMIT"}

if not OLD:
    from synapseclient.models import Evaluation as Model
    from synapseclient.models import Submission, SubmissionBundle, SubmissionStatus

    model = Model(
        name=unique("Model"),
        description="d",
        content_source=project.id,
        submission_instructions_message="i",
        submission_receipt_message="r",
    ).store()
    assert Model(name=model.name).get().id == model.id
    assert model.get_permissions()["canSubmit"]
    model.update_acl(principal_id=273949, access_type=["READ"])
    assert len(model.get_acl()["resourceAccess"]) == 2
    for found in (
        Model.get_all_evaluations(),
        Model.get_available_evaluations(),
        Model.get_evaluations_by_project(project.id),
    ):
        assert model.id in [e.id for e in found], found
    handed = Submission(evaluation_id=model.id, entity_id=newer.id, name="m").store()
    assert Submission(id=handed.id).get().entity_id == newer.id
    assert [s.id for s in Submission.get_evaluation_submissions(evaluation_id=model.id)] == [
        handed.id
    ]
    assert Submission.get_submission_count(evaluation_id=model.id)["count"] == 1
    verdict = SubmissionStatus(id=handed.id).get()
    verdict.status = "ACCEPTED"
    verdict.submission_annotations = {"score": [1.0], "why": ["good"]}
    verdict.can_cancel = True
    verdict = verdict.store()
    assert (verdict.status, verdict.status_version) == ("ACCEPTED", 1)
    Submission(id=handed.id).cancel()
    assert SubmissionStatus(id=handed.id).get().cancel_requested
    every = list(SubmissionStatus.get_all_submission_statuses(evaluation_id=model.id))
    every[0].status = "REJECTED"
    SubmissionStatus.batch_update_submission_statuses(
        evaluation_id=model.id, statuses=every, is_first_batch=True, is_last_batch=True
    )
    [both] = SubmissionBundle.get_evaluation_submission_bundles(evaluation_id=model.id)
    assert both.submission_status.status == "REJECTED"
    Submission(id=handed.id).delete()
    fails_with(404, Submission(id=handed.id).get)
    model.delete()

syn.delete(made)
fails_with(404, syn.getEvaluation, made.id)
fails_with(404, syn.getSubmissionStatus, sent)
