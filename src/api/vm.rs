//! The objects that a request carries: VirtualMachine, VirtualMachineInstance and the kinds that hold their templates.
