package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// kubectl is the program of that name; the first of args is its name.
func kubectl(args []string) {
	// It looks for plugins by the arguments of the process.
	os.Args = args
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		// This prints the error and ends the process.
		util.CheckErr(err)
	}
}
