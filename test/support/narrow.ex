defmodule Leash.Test.Narrow do
  @moduledoc """
  Commands in front of a VM that take something away from it, for the option `:prefix` of
  `Leash.Test.VM`.

  Each really takes it away: by a filter of system calls, a mount, a namespace or an id.
  `within/1` joins several.
  """

  alias Leash.Test.{Python, VM}

  @nobody 65_534

  @doc "Returns the number of an ordinary user that no other process here has."
  @spec nobody() :: pos_integer()
  def nobody, do: @nobody

  @doc "Refuses system calls: pairs such as `pidfd_open: :enosys`."
  @spec without([{atom(), atom()}]) :: String.t()
  def without(calls) do
    refused = for {call, error} <- calls, do: "#{call}=#{String.upcase("#{error}")}"
    Python.quote_all(Python.argv("narrow.py", refused ++ ["--"]))
  end

  @doc "Makes a mount namespace of its own, after these lines of shell."
  @spec mounted([String.t()]) :: String.t()
  def mounted(lines), do: shell("unshare --mount", lines)

  @doc "Does the same with a pid namespace, too. The command that it starts is not pid 1 there."
  @spec namespace([String.t()]) :: String.t()
  def namespace(lines) do
    # The shell stays, because pid 1 of a namespace ignores signals without a handler.
    line = Enum.join(["trap 'exit 143' TERM" | lines], "; ") <> "; \"$@\"; exit $?"
    "unshare --pid --fork --kill-child --mount sh -c #{Python.quote_all([line])} sh"
  end

  @doc "Makes a network namespace of its own with a loopback, after these lines of shell."
  @spec network([String.t()]) :: String.t()
  def network(lines), do: shell("unshare --net", ["ip link set lo up" | lines])

  @doc "Runs as an ordinary user."
  @spec as_nobody() :: String.t()
  def as_nobody, do: "setpriv --reuid=#{@nobody} --regid=#{@nobody} --clear-groups"

  @doc "Runs as root without a capability."
  @spec without_capabilities() :: String.t()
  def without_capabilities, do: "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs"

  @doc "Returns what code logs in a VM."
  @spec logged(VM.t(), String.t()) :: String.t()
  def logged(vm, code) do
    VM.eval(vm, """
    {:ok, _} = Application.ensure_all_started(:ex_unit)
    ExUnit.CaptureLog.capture_log(fn -> #{code} end)
    """)
  end

  @doc "Returns code that starts the application once more."
  @spec restart() :: String.t()
  def restart, do: ":ok = Application.stop(:leash); Application.start(:leash)"

  defp shell(command, lines) do
    line = Enum.join(lines, "; ") <> "; exec \"$@\""
    "#{command} sh -c #{Python.quote_all([line])} sh"
  end
end
