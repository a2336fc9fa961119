package main

import (
	"errors"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// The addresses of etcd. Unlike ports, other processes cannot take or reach these sockets.
var (
	etcdClients = url.URL{Scheme: "unix", Host: "etcd.sock"}
	etcdPeers   = url.URL{Scheme: "unix", Host: "etcd-peers.sock"}
)

// startEtcd starts etcd in the current directory and waits until it is ready.
func startEtcd(level string) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir = "etcd"
	config.ListenClientUrls = []url.URL{etcdClients}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{etcdPeers}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = level
	// The data of a test need not survive a crash of the machine.
	config.UnsafeNoFsync = true

	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err = <-etcd.Err():
	case <-time.After(time.Minute):
		err = errors.New("not ready within a minute")
	}
	etcd.Close()
	return nil, err
}
