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

// writeCredentials makes what the API server has to know at its start: the token of the admin, which is returned, and
// the key that signs tokens of service accounts. Those of an earlier run stay as they are.
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
	// Token, name, id and groups, as kube-apiserver wants them.
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

// writeKubeconfig writes the kubeconfig of the admin. It needs no file beside it.
func writeKubeconfig(address, token string) error {
	ca, err := os.ReadFile(authority)
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
