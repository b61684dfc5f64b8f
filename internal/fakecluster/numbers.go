package fakecluster

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// RevisionAnnotation has the number of a ReplicaSet among those of its Deployment, and of the Deployment that of its current one.
const RevisionAnnotation = "deployment.kubernetes.io/revision"

// Number gives to the current ReplicaSet of a Deployment the number after the highest of the others, unless its own is higher: then
// the others' highest was deleted. What is no number is left alone. It reports whether anything has changed.
func Number(current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) (changed bool) {
	next := int64(1)
	for _, set := range others {
		if n, err := strconv.ParseInt(set.Annotations[RevisionAnnotation], 10, 64); err == nil {
			next = max(next, n+1)
		}
	}
	before := current.Annotations[RevisionAnnotation]
	if n, err := strconv.ParseInt(before, 10, 64); before != "" && (err != nil || n >= next) {
		return false
	}
	if current.Annotations == nil {
		current.Annotations = map[string]string{}
	}
	current.Annotations[RevisionAnnotation] = strconv.FormatInt(next, 10)
	return true
}
