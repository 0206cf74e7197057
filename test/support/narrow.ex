defmodule Leash.Test.Narrow do
  @moduledoc """
  Commands in front of a VM that take something away from it, for the option `:prefix` of `Leash.Test.VM`.

  What is taken is really gone: a filter of system calls, a mount, a namespace, an id. Several are joined by `within/1`.
  """

  alias Leash.Test.{Python, VM}

  @nobody 65_534

  @doc "An ordinary user's number, which nobody else has here."
  @spec nobody() :: pos_integer()
  def nobody, do: @nobody

  @doc "Refuses system calls: pairs such as `pidfd_open: :enosys`."
  @spec without([{atom(), atom()}]) :: String.t()
  def without(calls) do
    refused = for {call, error} <- calls, do: "#{call}=#{String.upcase("#{error}")}"
    Python.quote_all(Python.argv("narrow.py", refused ++ ["--"]))
  end

  @doc "A mount namespace of its own, after these lines of shell."
  @spec mounted([String.t()]) :: String.t()
  def mounted(lines), do: shell("unshare --mount", lines)

  @doc "The same with a pid namespace, too: whoever is started is not its pid 1."
  @spec namespace([String.t()]) :: String.t()
  def namespace(lines) do
    # The shell stays: pid 1 of a namespace ignores what it has no handler for.
    line = Enum.join(["trap 'exit 143' TERM" | lines], "; ") <> "; \"$@\"; exit $?"
    "unshare --pid --fork --kill-child --mount sh -c #{Python.quote_all([line])} sh"
  end

  @doc "A network namespace of its own with a loopback, after these lines of shell."
  @spec network([String.t()]) :: String.t()
  def network(lines), do: shell("unshare --net", ["ip link set lo up" | lines])

  @doc "An ordinary user."
  @spec as_nobody() :: String.t()
  def as_nobody, do: "setpriv --reuid=#{@nobody} --regid=#{@nobody} --clear-groups"

  @doc "Root without a capability."
  @spec without_capabilities() :: String.t()
  def without_capabilities, do: "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs"

  @doc "What code logs in a VM."
  @spec logged(VM.t(), String.t()) :: String.t()
  def logged(vm, code) do
    VM.eval(vm, """
    {:ok, _} = Application.ensure_all_started(:ex_unit)
    ExUnit.CaptureLog.capture_log(fn -> #{code} end)
    """)
  end

  @doc "Code that starts the application once more."
  @spec restart() :: String.t()
  def restart, do: ":ok = Application.stop(:leash); Application.start(:leash)"

  defp shell(command, lines) do
    line = Enum.join(lines, "; ") <> "; exec \"$@\""
    "#{command} sh -c #{Python.quote_all([line])} sh"
  end
end
