// Package kustomize shows, with the real library, that kustomize makes of a GuardedDeployment what it makes of a Deployment
// if it is used as docs/gitops.md says, and what goes wrong otherwise.
package kustomize
