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
	client [2]client
}

// client is a certificate of Belay's, in PEM, and as the proxy gets it.
type client struct{ certificate, key, raw []byte }

func newCertificates() (*certificates, error) {
	c := &certificates{}
	for i := range c.pairs {
		for _, host := range []string{"127.0.0.1", "belay"} {
			certificate, key, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
			if err != nil {
				return nil, err
			}
			pair, err := tls.X509KeyPair(certificate, key)
			if err != nil {
				return nil, err
			}
			if host == "belay" {
				c.client[i] = client{certificate, key, pair.Certificate[0]}
				continue
			}
			c.pairs[i], c.bundle = pair, slices.Concat(c.bundle, certificate)
		}
	}
	return c, nil
}
