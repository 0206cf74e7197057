defmodule Leash.Adopted.Program do
  # The program of an adopted tree: its end is watched, because what it leaves has no time without
  # a bound.
  #
  # Its shim waits for what it cannot end for as long as that lives, and has no one to report to.
  @moduledoc false

  alias Leash.{Detached, Native, OSProcess}
  alias Leash.Shim.Escalation

  @linger "--linger="
  # The shim's own default.
  @default_linger_ms 200

  @doc """
  Sends the caller `:program_ended` at its end; `nil` where it has ended already, or cannot be
  watched.
  """
  @spec watch(Detached.tree()) :: Native.fd() | nil
  def watch(%{os_pid: nil}) do
    send(self(), :program_ended)
    nil
  end

  def watch(tree) do
    # Its shim is its parent, so that no other process can have had the number between two looks.
    with {:ok, program} <- OSProcess.identify(tree.os_pid),
         {:ok, %{ppid: parent}} when parent == tree.shim_pid <- OSProcess.info(program),
         {:ok, fd} <-
           Native.process_open(program.pid, program.start_ticks, program.pidfs_inode) do
      if Native.pidfd_monitor(fd, :program_ended) != :ok, do: send(self(), :program_ended)
      fd
    else
      _not_ours -> nil
    end
  end

  @doc "Milliseconds that what it leaves may take to end: the shim's linger, and its ladder."
  @spec bound(Detached.tree()) :: timeout()
  def bound(%{patience_ms: nil}), do: :infinity
  def bound(tree), do: linger(tree) + Escalation.bound(:ladder, tree.patience_ms)

  defp linger(tree) do
    shim = %OSProcess{
      pid: tree.shim_pid,
      start_ticks: tree.start_ticks,
      pidfs_inode: tree.pidfs_inode
    }

    with {:ok, %{args: args}} <- OSProcess.info(shim),
         @linger <> text <- Enum.find(args, &String.starts_with?(&1, @linger)),
         {ms, ""} <- Integer.parse(text) do
      ms
    else
      _unread -> @default_linger_ms
    end
  end
end
