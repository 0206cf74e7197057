defmodule Leash.Test.Cli do
  @moduledoc "The command `leash`: the one that LEASH_CLI names, else the installed one."

  @doc "Returns the path of the command, or nil without one."
  @spec path() :: String.t() | nil
  def path, do: System.get_env("LEASH_CLI") || Leash.Operator.path()

  @doc "Runs the command on a run directory; returns output (both streams) and status."
  @spec run(String.t(), [String.t()]) :: {String.t(), non_neg_integer()}
  def run(dir, arguments),
    do: System.cmd(path(), ["--run-dir", dir | arguments], stderr_to_stdout: true)
end
