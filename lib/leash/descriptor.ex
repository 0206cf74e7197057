defmodule Leash.Descriptor do
  # Completes the bare functions of `Leash.Native`.
  @moduledoc false

  alias Leash.Native

  @doc "Closes a descriptor and removes the message that it may have sent to the caller."
  @spec close(Native.fd() | nil) :: :ok
  def close(nil), do: :ok

  def close(fd) do
    _ = Native.fd_close(fd)

    receive do
      {:leash_fd, ^fd, _what} -> :ok
    after
      0 -> :ok
    end
  end

  @doc """
  Sends the caller the message when the process of a pidfd has ended.

  A descriptor can notify one process at a time, and the Reaper may wait for the one in the table.
  So this function makes a copy, which lives until the message is sent.
  """
  @spec monitor_end(Native.fd(), term()) :: :ok | {:error, term()}
  def monitor_end(fd, message) do
    with {:ok, own} <- Native.fd_dup(fd), do: Native.pidfd_monitor(own, message)
  end
end
