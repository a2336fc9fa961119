# Template of the Homebrew formula. deploy/release.py fills in the checksums of the archives.
class Nicplug < Formula
  desc "Admission webhook and kubectl plugin for NIC hotplug of KubeVirt"
  homepage "https://github.com/nicplug/nicplug"
  version "0.1.0"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://github.com/nicplug/nicplug/releases/download/v0.1.0/nicplug-darwin-arm64.tar.gz"
      sha256 "SUM OF nicplug-darwin-arm64.tar.gz"
    end
    on_intel do
      url "https://github.com/nicplug/nicplug/releases/download/v0.1.0/nicplug-darwin-amd64.tar.gz"
      sha256 "SUM OF nicplug-darwin-amd64.tar.gz"
    end
  end

  on_linux do
    on_arm do
      url "https://github.com/nicplug/nicplug/releases/download/v0.1.0/nicplug-linux-arm64.tar.gz"
      sha256 "SUM OF nicplug-linux-arm64.tar.gz"
    end
    on_intel do
      url "https://github.com/nicplug/nicplug/releases/download/v0.1.0/nicplug-linux-amd64.tar.gz"
      sha256 "SUM OF nicplug-linux-amd64.tar.gz"
    end
  end

  def install
    bin.install "nicplug"
    # kubectl finds a plugin by this name.
    bin.install_symlink "nicplug" => "kubectl-nicplug"
    # kubectl completes the arguments of a plugin with a program of this name.
    bin.install_symlink "nicplug" => "kubectl_complete-nicplug"
    bash_completion.install "completions/nicplug.bash" => "nicplug"
    fish_completion.install "completions/nicplug.fish"
    zsh_completion.install "completions/_nicplug"
    man1.install Dir["man/*.1"]
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/nicplug --version")
  end
end
