package faults

import (
	"crypto/tls"
	"slices"

	"k8s.io/client-go/util/cert"
)

// certificates are what a proxy can show: the first, and the second when it has been rotated.
type certificates struct {
	bundle []byte // of those who made them
	pairs  [2]tls.Certificate
}

func newCertificates() (*certificates, error) {
	c := &certificates{}
	for i := range c.pairs {
		certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
		if err != nil {
			return nil, err
		}
		if c.pairs[i], err = tls.X509KeyPair(certificate, key); err != nil {
			return nil, err
		}
		c.bundle = slices.Concat(c.bundle, certificate)
	}
	return c, nil
}
