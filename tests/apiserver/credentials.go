package main

import (
	"crypto/rand"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

const admin = "admin"

// writeCredentials creates the credentials that the API server needs to start, unless an earlier run created them: the
// token of the admin, which it returns, and the key that signs the tokens of service accounts.
func writeCredentials() (token string, err error) {
	if _, _, err := keyutil.LoadOrGenerateKeyFile(signingKey); err != nil {
		return "", err
	}
	switch token, err := readToken(); {
	case errors.Is(err, fs.ErrNotExist):
		return writeToken()
	default:
		return token, err
	}
}

func readToken() (string, error) {
	file, err := os.Open(tokens)
	if err != nil {
		return "", err
	}
	defer file.Close()
	// The fields of kube-apiserver: token, name, id and groups.
	fields, err := csv.NewReader(file).Read()
	if err != nil {
		return "", fmt.Errorf("%s: %w", tokens, err)
	}
	return fields[0], nil
}

func writeToken() (string, error) {
	token := rand.Text()
	line := fmt.Sprintf("%s,%s,%s,%s\n", token, admin, admin, user.SystemPrivilegedGroup)
	return token, os.WriteFile(tokens, []byte(line), 0o600)
}

// writeKubeconfig writes the kubeconfig of the admin, which refers to no other file.
func writeKubeconfig(address, token string) error {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	config := api.NewConfig()
	config.Clusters[admin] = &api.Cluster{Server: address, CertificateAuthorityData: ca}
	config.AuthInfos[admin] = &api.AuthInfo{Token: token}
	config.Contexts[admin] = &api.Context{Cluster: admin, AuthInfo: admin}
	config.CurrentContext = admin
	return clientcmd.WriteToFile(*config, kubeconfig)
}
