// Package rollout decides what becomes of a GuardedDeployment's release. It is pure: what is known comes in as Observed,
// what to do goes out as Decision, and so does time (Observed.Now, Decision.Recheck). It reads nothing, writes nothing,
// waits for nothing.
//
// A revision is one pod template of one GuardedDeployment, kept as a ControllerRevision. It is unjudged, good or failed.
// The target is the revision that the spec's template asks for. The last good is the highest-numbered good revision
// other than the target. Decide is this table:
//
//	target is            Deployment runs  judge says        then
//	-------------------  ---------------  ----------------  ----------------------------------------------------------
//	unknown              anything         -                 record it
//	not the newest       anything         -                 give it the highest number: the spec asks for it again
//	failed, retry asked  anything         -                 record another attempt: it is unjudged again
//	  or due
//	unjudged             anything else    -                 run it
//	unjudged             target           progressing       wait; look again when the verdict can next change
//	unjudged             target           good              mark it good
//	unjudged             target           failed            mark it failed, with the evidence
//	failed, Rollback,    anything         -                 run the last good, watch that it comes up, and stay there
//	  a good one exists
//	failed, Hold or      target           good after all    mark it good
//	  none is good       anything         anything else     leave it; create a missing Deployment again, on the target
//	good                 anything else    -                 run it
//	good                 target           up, or not up     report
//	any                  anything         -                 give a revision its label back
//	any                  another's, consents  -             record what runs as good, if it is complete; take it over
//	any                  name taken, paused, being deleted  report; while paused only paused and replicas are written
//
// Each row is at most one kind of write. What was written is observed, in a cache or in the API server's answer, before
// the next row is taken, so that every decision comes from what is stored, and a process that dies between two writes
// loses nothing.
//
// The files, in the order to read them: decide.go (the table), judge.go (how a rollout stands), revision.go (what is
// kept), deployment.go (what the Deployment should say), status.go (what is reported); then adopt.go, retry.go and
// rival.go, which need not be known to understand the rest.
package rollout
