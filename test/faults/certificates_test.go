package faults

import (
	"crypto/tls"
	"slices"

	"k8s.io/client-go/util/cert"
)

// certificates are what a proxy can show, and what Belay can: of each the first, and the second when it has been rotated.
type certificates struct {
	bundle []byte // of those who made what proxies show
	pairs  [2]tls.Certificate
	client [2]madeCertificate
}

// madeCertificate is one with its key, in PEM, and as TLS uses it.
type madeCertificate struct {
	certificate, key []byte
	pair             tls.Certificate
}

func newCertificates() (*certificates, error) {
	c := &certificates{}
	for i := range c.pairs {
		shown, err := newCertificate("127.0.0.1")
		if err != nil {
			return nil, err
		}
		c.pairs[i], c.bundle = shown.pair, slices.Concat(c.bundle, shown.certificate)
		if c.client[i], err = newCertificate("belay"); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func newCertificate(host string) (made madeCertificate, err error) {
	if made.certificate, made.key, err = cert.GenerateSelfSignedCertKey(host, nil, nil); err != nil {
		return made, err
	}
	made.pair, err = tls.X509KeyPair(made.certificate, made.key)
	return made, err
}
