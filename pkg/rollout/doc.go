// Package rollout decides what becomes of a GuardedDeployment's release. It is pure: what is known comes in as Observed,
// what to do goes out as Decision, and so does time (Observed.Now, Decision.Recheck). It reads nothing, writes nothing,
// waits for nothing.
//
// A revision is one pod template of one GuardedDeployment, kept as a ControllerRevision. It is unjudged, good or failed.
// The target is the revision that the spec's template asks for. The last good is the highest-numbered revision,
// other than the target, whose last verdict is good. Decide takes the first row of this table that applies:
//
//	row              applies when                                       then
//	---------------  -------------------------------------------------  ------------------------------------------------
//	live read        the cache has no Deployment                        ask the API server for it
//	name taken       the Deployment is another's, without consent       leave it alone
//	adoption         the Deployment is another's, with consent          record what runs as good, if it is complete;
//	                                                                    take it over
//	deletion         the Deployment is being deleted                    wait until it is gone
//	label            a revision has lost its label                      give it back
//	pause            spec.paused is set                                 write paused and replicas only, judge nothing
//	unrecordable     the template could not be read back                report
//	unknown          the template is no revision's                      record it: it is the target
//	request          the target is not the newest                       give it the highest number: it is asked for again
//	retry            the target failed, and there is a new retry token  record another attempt: it is unjudged again
//	automatic retry  the target failed, and a set retry is due          record another attempt: it is unjudged again
//	unjudged         the target has no verdict                          run it; wait until the judge knows; mark it good,
//	                                                                    or failed with the evidence
//	good             the target is good                                 run it; judge a restart, and undo one that failed
//	rollback         onFailure is Rollback, and there is a last good    run the last good, watch that it comes up, and
//	                                                                    stay there; judge its restarts, too
//	hold             always                                             leave it; create a missing Deployment on the
//	                                                                    target; mark the target good if it comes up
//
// Each row is at most one kind of write. What was written is observed, in a cache or in the API server's answer, before
// the next row is taken, so that every decision comes from what is stored, and a process that dies between two writes
// loses nothing.
//
// A GuardedDeployment that is being deleted gets no decision: the garbage collector takes what it owns.
//
// The files, in the order to read them, and what each answers:
//
//	observed.go    what comes in?
//	decision.go    what goes out?
//	decide.go      which row of the table applies, and what is done then?
//	steps.go       how is a revision run and watched?
//	judge.go       how does a rollout stand, and what is the verdict?
//	look.go        what is looked at, and what is it compared with?
//	evidence.go    what was read, who is counted, and who is absent?
//	pod.go         what does one pod show at one look?
//	record.go      what is remembered of a pod that is there?
//	ends.go        what is remembered of pods that are gone?
//	trouble.go     what speaks against the release?
//	excuse.go      what of that is not held against it, and for whom does it wait?
//	needs.go       would the last good template meet the same?
//	refusal.go     what do the words of the API server, the kubelet and the scheduler mean?
//	question.go    what has to be read besides, and what did the answers say?
//	cause.go       why does something fail?
//	words.go       what is said of a failure?
//	restart.go     what becomes of another ReplicaSet of a good revision?
//	images.go      which images ran when it was good, and which are run again?
//	references.go  what does the last good one need that is no longer there?
//	log.go         what is kept of a log?
//	revision.go    what is recorded?
//	deployment.go  what should the Deployment say?
//	status.go      what is reported?
//	outcome.go     what follows from the API server's answer to a write?
//	memory.go      what is remembered between two decisions?
//
// adopt.go, leave.go, retry.go and rival.go (how others' Deployments are taken over, and ours given up, what is tried again, and who
// fights) need not be known to understand the rest. docs/judging.md has the rules by which a release is judged, each with its test.
package rollout
