// Command apiserver runs a real kube-apiserver with an embedded etcd on 127.0.0.1. It ends when its standard input
// closes, and so with the process that started it, even if that process crashes.
//
// When it is ready it prints one line of JSON (see [announcement]) and nothing else. All data is in one directory,
// which is removed at the end unless --dir names it. A later run with the same directory and port continues the same
// API server.
//
//	apiserver [--dir DIR] [--port N] [--log error|info] [-- FLAG...]
//	apiserver kubectl ARG...
//
// Flags after -- are passed to kube-apiserver. The second form runs kubectl of the same version.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"k8s.io/klog/v2"
)

// announcement is the line that is printed when the API server is ready.
type announcement struct {
	// The address of the API server: "https://127.0.0.1:PORT".
	Address string `json:"address"`
	// A file with the CA certificates to trust, PEM.
	CA string `json:"ca"`
	// A kubeconfig of the user "admin" in the group "system:masters", who may do anything and impersonate anyone.
	Kubeconfig string `json:"kubeconfig"`
	// The version of Kubernetes, such as "v1.37.2".
	Version string `json:"version"`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		kubectl(os.Args[1:])
		return
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "apiserver: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("dir", "", "directory for data and certificates, kept at the end (default: a temporary directory)")
	port := flag.Int("port", 0, "port of the API server on 127.0.0.1 (default: an unused port)")
	level := flag.String("log", "error", "log level on standard error: error or info")
	flag.Parse()

	if err := setLogLevel(*level); err != nil {
		return err
	}
	// If the parent process has ended, nothing reads standard error any more; the cleanup must still run.
	signal.Ignore(syscall.SIGPIPE)
	leave, err := enter(*dir)
	if err != nil {
		return err
	}
	return errors.Join(serve(untilStopped(), *port, flag.Args(), *level), leave())
}

// serve runs etcd and the API server in the current directory until ctx is done.
func serve(ctx context.Context, port int, extraFlags []string, level string) error {
	store, err := startEtcd(level)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer store.Close()

	running, stop := context.WithCancel(ctx)
	defer stop()
	server, err := prepare(running, port, extraFlags)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- server.run(running)
		stop()
	}()
	if err := announce(running, server); err != nil {
		stop()
		return errors.Join(err, <-ended)
	}
	return <-ended
}

// announce waits until the server is ready and prints its announcement.
func announce(ctx context.Context, server *server) error {
	if err := server.waitUntilReady(ctx); err != nil {
		return err
	}
	announcement, err := server.announcement()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(announcement)
}

// untilStopped returns a context that is done when standard input closes, or after SIGTERM or SIGINT.
func untilStopped() context.Context {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() {
		// The content does not matter, only the end.
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

// enter changes into dir, or into a temporary directory that leave removes. All files have relative paths, since the
// path of a socket is limited to 107 bytes.
func enter(dir string) (leave func() error, err error) {
	leave = func() error { return nil }
	if dir == "" {
		if dir, err = os.MkdirTemp("", "apiserver-"); err != nil {
			return nil, err
		}
		leave = func() error { return os.RemoveAll(dir) }
	} else if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	} else if err = os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return leave, os.Chdir(dir)
}

// setLogLevel makes the API server log messages of this level and above.
func setLogLevel(level string) error {
	if level != "error" && level != "info" {
		return fmt.Errorf("--log %q is invalid: use error or info", level)
	}
	set := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(set)
	return errors.Join(set.Set("legacy_stderr_threshold_behavior", "false"), set.Set("stderrthreshold", level))
}
