defmodule Leash.Test.Tag do
  @moduledoc """
  Tags as documented, made by hand, for processes that wear one without being entitled to it.
  """

  import Bitwise

  alias Leash.Test.Observer

  @doc "Returns a `LEASH_RUN` that names the given process as the owner."
  @spec env(String.t(), pos_integer(), Observer.identity()) :: String.t()
  def env(run_id, worker, {pid, ticks}) do
    %{inode: pid_ns} = File.stat!("/proc/self/ns/pid")
    "LEASH_RUN=#{run_id}.#{worker}.#{pid}.#{ticks}.#{pid_ns}.#{boot()}"
  end

  @doc "Returns the boot id's first eight characters."
  @spec boot() :: String.t()
  def boot, do: "/proc/sys/kernel/random/boot_id" |> File.read!() |> binary_part(0, 8)

  @doc "Returns `soft:hard` of a mark at the outermost depth."
  @spec locks(String.t(), pos_integer()) :: String.t()
  def locks(run_id, worker) do
    common = 0x4C <<< 56 ||| 7 <<< 53 ||| String.to_integer(run_id, 36) <<< 16
    "#{common ||| worker}:#{common ||| 0x7FFF}"
  end

  @doc "Returns the run that a process's hard limit names, or `nil`."
  @spec marked_run(pos_integer()) :: String.t() | nil
  def marked_run(pid) do
    with {:ok, limits} <- File.read("/proc/#{pid}/limits"),
         [_line, hard] <- Regex.run(~r/^Max file locks +\S+ +(\d+)/m, limits),
         hard = String.to_integer(hard),
         0x4C <- hard >>> 56 do
      (hard >>> 16 &&& (1 <<< 37) - 1)
      |> Integer.to_string(36)
      |> String.downcase()
      |> String.pad_leading(7, "0")
    else
      _unmarked -> nil
    end
  end

  @doc "Returns a process that has ended: no process has this pid with this start."
  @spec dead_owner() :: Observer.identity()
  def dead_owner do
    {_own, ticks} = Observer.identity(String.to_integer(System.pid()))
    {pid, 0} = System.cmd("sh", ["-c", "echo $$"])
    {pid |> String.trim() |> String.to_integer(), max(ticks - 1, 1)}
  end
end
