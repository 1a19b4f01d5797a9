package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Authority signs the certificates of this server: good ones, and such as nobody may accept.
type Authority struct {
	caPEM []byte
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey

	lock    sync.Mutex
	serial  int64
	current *tls.Certificate
}

func newAuthority(kind string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "authority of a test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	authority := &Authority{caPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ca: ca, key: key, serial: 1}
	return authority, authority.become(first(kind, "good"))
}

// become changes the certificate for the connections that come: "good" (a new one, each time), "expired", "wrong-name", or "own"
// (signed by nobody but itself).
func (a *Authority) become(kind string) error {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.serial++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      pkix.Name{CommonName: "vcenter of a test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.ca, a.key
	switch kind {
	case "good":
	case "expired":
		template.NotBefore, template.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	case "wrong-name":
		template.DNSNames, template.IPAddresses = []string{"elsewhere.example"}, nil
	case "own":
		parent, signer = template, key
	default:
		return fmt.Errorf("no certificate is called %q", kind)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	a.current = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return nil
}

// leaf is the certificate in use.
func (a *Authority) leaf() []byte {
	a.lock.Lock()
	defer a.lock.Unlock()
	return a.current.Certificate[0]
}

func (a *Authority) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	return a.current, nil
}
