defmodule Leash.Test.FarEnds do
  @moduledoc """
  Pipes of the VM whose other ends belong to a Python program. It plays the warden, to which a
  request takes them.

  The program's own code begins with `ends` of the first request (file descriptors), and calls
  `take()` for each further one.
  """

  import ExUnit.Assertions

  alias Leash.Native

  @take """
  import os, socket, sys
  s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  s.connect("\\0" + sys.argv[1])
  def take():
      message, fds, flags, sender = socket.recv_fds(s, 64, 8)
      for fd in fds[:2]: os.close(fd)
      return fds[2:]
  ends = take()
  """

  @type ends :: %{stdin: Native.fd() | nil, stdout: Native.fd() | nil, stderr: Native.fd() | nil}

  @doc """
  Runs the code, and returns its port and the VM's ends for each of the requests. A request names
  the streams that are pipes.
  """
  @spec open(String.t(), [[:stdin | :stdout | :stderr]]) :: {port(), [ends()]}
  def open(code, requests) do
    python = System.find_executable("python3") || flunk("this test needs python3")
    {:ok, listener, name} = Native.warden_listen()
    args = ["-c", @take <> code, name]
    program = Port.open({:spawn_executable, python}, [:binary, line: 80, args: args])
    {:os_pid, os_pid} = Port.info(program, :os_pid)
    control = accept(listener, os_pid)
    ends = Enum.map(requests, &request(control, &1))
    :ok = Native.fd_close(control)
    :ok = Native.fd_close(listener)
    {program, ends}
  end

  defp accept(listener, os_pid) do
    case Native.warden_accept(listener, os_pid) do
      {:ok, control} ->
        control

      :again ->
        assert_receive {:leash_fd, ^listener, :ready}, 10_000
        accept(listener, os_pid)
    end
  end

  defp request(control, streams) do
    [stdin, stdout, stderr] =
      for stream <- [:stdin, :stdout, :stderr],
          do: if(stream in streams, do: :pipe, else: :none)

    {:ok, channel, {stdin, stdout, stderr}} =
      Native.shim_start(control, ["x"], {"", 0}, {stdin, stdout, stderr})

    :ok = Native.fd_close(channel)
    %{stdin: stdin, stdout: stdout, stderr: stderr}
  end
end
