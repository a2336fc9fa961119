// Command apiserver runs a real kube-apiserver on 127.0.0.1, with its etcd inside, for as long as its standard input
// is open: so it ends with the process that started it, however that ends.
//
// When it is ready it prints one line of JSON (see [announcement]) and nothing more. What it stores is in one folder, which is
// removed at the end unless --dir named it: then a later run on the same folder and port is the same API server again.
//
//	apiserver [--dir DIR] [--port N] [--log error|info] [-- FLAG...]
//	apiserver kubectl ARG...
//
// Further flags are those of kube-apiserver itself. The second form is kubectl, of the same version.
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

// announcement is what is told on standard output, once.
type announcement struct {
	// Where the API server is: "https://127.0.0.1:PORT".
	Address string `json:"address"`
	// A file with the certificates to trust, PEM.
	CA string `json:"ca"`
	// A kubeconfig of the user "admin" in the group "system:masters", who may do and impersonate anything.
	Kubeconfig string `json:"kubeconfig"`
	// The version of Kubernetes, as "v1.37.2".
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
	dir := flag.String("dir", "", "folder for data and certificates; kept at the end (default: a new one that is removed)")
	port := flag.Int("port", 0, "port of the API server on 127.0.0.1 (default: a free one)")
	level := flag.String("log", "error", "what to log on standard error: error or info")
	flag.Parse()

	if err := logFrom(*level); err != nil {
		return err
	}
	// Whoever started this may have ended, and read standard error no more; what is left to do is to be done.
	signal.Ignore(syscall.SIGPIPE)
	leave, err := enter(*dir)
	if err != nil {
		return err
	}
	return errors.Join(serve(wanted(), *port, flag.Args(), *level), leave())
}

// serve runs etcd and the API server in the current folder until ctx is done.
func serve(ctx context.Context, port int, further []string, level string) error {
	store, err := startEtcd(level)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer store.Close()

	running, stop := context.WithCancel(ctx)
	defer stop()
	server, err := prepare(running, port, further)
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

// announce tells that the server is ready, once it is.
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

// wanted is done when standard input closes, or at SIGTERM or SIGINT.
func wanted() context.Context {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() {
		// Whatever is written to it, the end of it is what counts.
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

// enter makes dir the current folder, or a new one that leave removes. Files are named relative to it, since the path
// of a socket may have 107 bytes at most.
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

// logFrom lets the API server log what is as grave as level, or graver.
func logFrom(level string) error {
	if level != "error" && level != "info" {
		return fmt.Errorf("--log %q: write error or info", level)
	}
	set := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(set)
	return errors.Join(set.Set("legacy_stderr_threshold_behavior", "false"), set.Set("stderrthreshold", level))
}
