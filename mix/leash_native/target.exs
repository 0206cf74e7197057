defmodule Mix.Tasks.Compile.LeashNative.Target do
  # The machine that is compiled for, by the names of Rust's targets.
  @moduledoc false

  @doc "Returns why this architecture cannot run Leash, as one sentence, or `nil`."
  @spec host_problem(String.t()) :: String.t() | nil
  def host_problem(architecture) do
    unless architecture =~ ~r/^(x86_64|amd64|aarch64|arm64)/ or
             System.get_env("CARGO_BUILD_TARGET") do
      "Leash runs on x86-64 and aarch64 and this machine is #{architecture}: compile it on " <>
        "one of those, or set CARGO_BUILD_TARGET to cross-compile for one."
    end
  end

  @doc "Returns the architecture that this VM was built for."
  @spec architecture() :: String.t()
  def architecture, do: List.to_string(:erlang.system_info(:system_architecture))

  @doc "Returns `CARGO_BUILD_TARGET`, or the target of this VM."
  @spec name() :: String.t()
  def name do
    case System.get_env("CARGO_BUILD_TARGET") do
      unset when unset in [nil, ""] -> of_vm(architecture())
      target -> target
    end
  end

  @doc "Returns the target of a VM that was built for `architecture`."
  @spec of_vm(String.t()) :: String.t()
  def of_vm(architecture) do
    machine = if architecture =~ ~r/^(aarch64|arm64)/, do: "aarch64", else: "x86_64"
    libc = if architecture =~ "musl", do: "musl", else: "gnu"
    "#{machine}-unknown-linux-#{libc}"
  end
end
