// Package writegate has no code, only a measurement: the write gate of client-go 0.38 beside Belay's fence, for docs/architecture.md.
// It is a module of its own, which CI leaves out: client-go 0.38 needs Go 1.27.
//
//	GOTOOLCHAIN=go1.27.0 go -C test/writegate test -v
package writegate
