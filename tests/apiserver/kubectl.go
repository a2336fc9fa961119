package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// kubectl runs kubectl; the first of args is the name of the program.
func kubectl(args []string) {
	// kubectl searches its plugins by os.Args.
	os.Args = args
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		// CheckErr prints the error and ends the process.
		util.CheckErr(err)
	}
}
