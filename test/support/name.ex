defmodule Leash.Test.Name do
  @moduledoc """
  Names in directories that suites share: with the number of this VM and its pid namespace, so that two suites in namespaces
  of their own, in which both VMs may have the same number, never meet.
  """

  @doc "A name that nobody else has."
  @spec unique(String.t()) :: String.t()
  def unique(prefix), do: "#{of_suite(prefix)}-#{System.unique_integer([:positive])}"

  @doc "A name that this suite alone has."
  @spec of_suite(String.t()) :: String.t()
  def of_suite(prefix), do: "#{prefix}-#{System.pid()}-#{pid_ns()}"

  @doc "Whether a name was made by a suite that is gone, as far as can be seen from here."
  @spec stale?(String.t()) :: boolean()
  def stale?(name) do
    case Regex.run(~r/-(\d+)-(\d+)-\d+$/, name) do
      [_all, pid, ns] -> ns == pid_ns() and not File.exists?("/proc/#{pid}")
      nil -> false
    end
  end

  defp pid_ns do
    [digits] = Regex.run(~r/\d+/, File.read_link!("/proc/self/ns/pid"))
    digits
  end
end
