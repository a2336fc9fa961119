package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// Files in the current directory, which flags.txt names as well.
const (
	caFile     = "certs/apiserver.crt"
	kubeconfig = "admin.kubeconfig"
	signingKey = "service-accounts.key"
	tokens     = "tokens.csv"
)

// flags has the flags of kube-apiserver, one per line, for a cluster with a single process; other settings keep their
// defaults. So the default admission plugins are enabled, but there are no controllers: nothing empties a deleted
// namespace, collects garbage or creates the service account "default".
//
//go:embed flags.txt
var flags string

// server is an API server with a port and credentials, ready to run.
type server struct {
	options options.CompletedOptions
	client  kubernetes.Interface
	address string
}

// prepare listens on the port, where 0 is an unused one, and writes the credentials unless an earlier run did.
func prepare(ctx context.Context, port int, extraFlags []string) (*server, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	token, err := writeCredentials()
	if err != nil {
		return nil, err
	}
	options, err := complete(ctx, listener, extraFlags)
	if err != nil {
		return nil, err
	}
	// complete has created the CA.
	address := "https://" + listener.Addr().String()
	if err := writeKubeconfig(address, token); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &server{options, client, address}, nil
}

// complete parses the flags, and creates the certificates if they are missing.
func complete(ctx context.Context, listener net.Listener, extraFlags []string) (options.CompletedOptions, error) {
	none := options.CompletedOptions{}
	serverOptions := options.NewServerRunOptions()
	set := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, group := range serverOptions.Flags().FlagSets {
		set.AddFlagSet(group)
	}
	if err := set.Parse(append(strings.Fields(flags), extraFlags...)); err != nil {
		return none, err
	}
	serverOptions.SecureServing.Listener = listener
	serverOptions.SecureServing.BindPort = listener.Addr().(*net.TCPAddr).Port
	if err := serverOptions.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return none, err
	}
	completed, err := serverOptions.Complete(ctx)
	if err != nil {
		return none, err
	}
	return completed, utilerrors.NewAggregate(completed.Validate())
}

// run serves until ctx is done and the requests in flight have ended.
func (s *server) run(ctx context.Context) error {
	return app.Run(ctx, s.options)
}

// waitUntilReady waits until the API server is ready and has created its own namespaces.
func (s *server) waitUntilReady(ctx context.Context) error {
	const interval, timeout = 50 * time.Millisecond, 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, interval, true, func(ctx context.Context) (bool, error) {
		return s.isReady(ctx), nil
	})
	if err != nil {
		return fmt.Errorf("the API server did not become ready: %w", err)
	}
	return nil
}

func (s *server) isReady(ctx context.Context) bool {
	if s.client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() != nil {
		return false
	}
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem} {
		if _, err := s.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return false
		}
	}
	return true
}

// announcement returns the announcement of a server that is ready.
func (s *server) announcement() (*announcement, error) {
	version, err := s.client.Discovery().ServerVersion()
	if err != nil {
		return nil, err
	}
	ca, err := filepath.Abs(caFile)
	if err != nil {
		return nil, err
	}
	config, err := filepath.Abs(kubeconfig)
	return &announcement{s.address, ca, config, version.GitVersion}, err
}
