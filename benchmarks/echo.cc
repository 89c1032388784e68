// What a call costs a server in C++ that does nothing: each one is answered with the same bytes.
//
//   echo FILE     prints its port, and then answers each line on stdin with one line of JSON
//
// harness/cpp_echo.py builds it, and process.py speaks to it as to the servers in Python. One thread
// takes all events of one completion queue, which is gRPC's own fastest way on one core.
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

namespace {

// So many calls of one connection may wait to be begun.
constexpr int kWaiting = 256;

// One call, of any method; it deletes itself.
class Call {
 public:
  Call(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue& events,
       const std::string& answer)
      : service_(service), events_(events), answer_(answer), stream_(&context_) {
    service_.RequestCall(&context_, &stream_, &events_, &events_, this);
  }

  // Something that was asked for is done; or it failed, and with it the call.
  void Advance(bool is_ok) {
    const Step done = step_;
    if (!is_ok || done == Step::kAnswering) {
      delete this;
    } else if (done == Step::kWaiting) {
      new Call(service_, events_, answer_);
      step_ = Step::kReading;
      stream_.Read(&request_, this);
    } else {
      step_ = Step::kAnswering;
      const grpc::Slice bytes(answer_.data(), answer_.size(), grpc::Slice::STATIC_SLICE);
      stream_.WriteAndFinish(grpc::ByteBuffer(&bytes, 1), grpc::WriteOptions(), grpc::Status::OK,
                             this);
    }
  }

 private:
  enum class Step { kWaiting, kReading, kAnswering };

  grpc::AsyncGenericService& service_;
  grpc::ServerCompletionQueue& events_;
  const std::string& answer_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer request_;
  Step step_ = Step::kWaiting;
};

double ProcessCpuSeconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: echo FILE\n";
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::string answer{std::istreambuf_iterator<char>(file), {}};

  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterAsyncGenericService(&service);
  const std::unique_ptr<grpc::ServerCompletionQueue> events = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::cerr << "echo: no port\n";
    return 1;
  }
  std::thread([&] {
    for (int i = 0; i < kWaiting; ++i) {
      new Call(service, *events, answer);
    }
    void* call = nullptr;
    bool is_ok = false;
    while (events->Next(&call, &is_ok)) {
      static_cast<Call*>(call)->Advance(is_ok);
    }
  }).detach();

  std::cout << port << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << std::fixed << "{\"cpu_s\": " << ProcessCpuSeconds()
              << ", \"python_s\": 0, \"batches\": {}}" << std::endl;
  }
  std::quick_exit(0);
}
