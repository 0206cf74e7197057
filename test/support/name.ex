defmodule Leash.Test.Name do
  @moduledoc """
  Names in directories that suites share. A name has the number of this VM, its pid namespace and
  its start, so that two suites never meet.

  In a namespace of its own each VM has the same low number. The kernel gives the number of a
  namespace that is gone to a later one. Without the start, a suite read what an aborted one had
  left.
  """

  alias Leash.Test.Observer

  @doc "Returns a name that no other caller has."
  @spec unique(String.t()) :: String.t()
  def unique(prefix), do: "#{of_suite(prefix)}-#{System.unique_integer([:positive])}"

  @doc "Returns a name that this suite alone has."
  @spec of_suite(String.t()) :: String.t()
  def of_suite(prefix), do: "#{prefix}-#{System.pid()}-#{pid_ns()}-#{start_ticks()}"

  @doc "Whether the suite that made a name is gone, as far as this VM can see."
  @spec stale?(String.t()) :: boolean()
  def stale?(name) do
    case Regex.run(~r/-(\d+)-(\d+)-(\d+)-\d+$/, name) do
      [_all, pid, ns, ticks] ->
        identity = {String.to_integer(pid), String.to_integer(ticks)}
        ns == pid_ns() and not Observer.alive?(identity)

      nil ->
        false
    end
  end

  defp start_ticks do
    {_pid, ticks} = System.pid() |> String.to_integer() |> Observer.identity()
    ticks
  end

  defp pid_ns do
    [digits] = Regex.run(~r/\d+/, File.read_link!("/proc/self/ns/pid"))
    digits
  end
end
