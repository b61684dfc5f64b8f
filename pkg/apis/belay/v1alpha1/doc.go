// Package v1alpha1 is the API of Belay: the GuardedDeployment.
//
// +k8s:deepcopy-gen=package
// +groupName=belay.dev
package v1alpha1
